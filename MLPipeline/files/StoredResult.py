"""Results of long computations, kept in the cache: computed once for the same input."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from MLPipeline.files.CacheFiles import read_signed, sound_cache, write_signed

Result = TypeVar("Result")


def stored_result(
    file: Path, compute: Callable[[], Result], encode: Callable[[Result], bytes], decode: Callable[[bytes], Result]
) -> Result:
    """Return what `file` has, if this user has written it; else what `compute` returns, which `file` then has.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if (stored := read_signed(file)) is not None:
        return decode(stored)
    result = compute()
    write_signed(file, encode(result))
    return result


def result_file(cache: Path, kind: str, about: object, *arrays: np.ndarray) -> Path:
    """Return where a result of some `kind` is kept that follows from `arrays`, and from what `about` says as text.

    `about` must change with every change to how the result is computed.
    """
    state = hashlib.blake2b(str(about).encode("utf-8", "surrogateescape"), digest_size=12)
    for array in arrays:
        state.update(f"{array.shape} {array.dtype.str}".encode())
        state.update(np.ascontiguousarray(array).data)
    return sound_cache(cache) / kind / state.hexdigest()


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return named arrays as a result to keep."""
    archive = io.BytesIO()
    np.savez(archive, **arrays)  # type: ignore[arg-type]  # its other parameter is not an array
    return archive.getvalue()


def decode_arrays(stored: bytes) -> dict[str, np.ndarray]:
    """Return what `encode_arrays` was given."""
    with np.load(io.BytesIO(stored)) as kept:
        return dict(kept)
