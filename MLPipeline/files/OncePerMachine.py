"""Large arrays that the ranks of one machine share, instead of each computing and holding them.

    index = once_per_machine(lambda: scan_folders(root), cache)

The first rank of the machine computes; its arrays are written to a file in the cache, which all ranks of the machine
map into memory. Each page is then in memory once, however many ranks read it, and the system may drop it. Everything
else travels by message through the store of the ranks: only there is pickled data, as with torch's own broadcasts of
objects, while the file has nothing but numbers. On POSIX the file loses its name as soon as all ranks have opened it,
so that nothing is left of a run that is killed; Windows does not allow that, and the file is deleted by the next run.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import pickle
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import PipelineError, ResourceError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.CacheFiles import make_folder, open_plain, sound_cache

_LEAST_BYTES = 2**20  # smaller arrays are sent by message: every rank has a copy
_LEAST_BYTES_ALONE = 2**28  # a single rank gains nothing but that the system may drop the pages
_ALIGNMENT = 64
_PATIENCE_S = 20.0  # for the other ranks to hear of an error before the first one ends, and the store with it
_LEFT_OVER_S = 3600.0  # age of a file that no run is about to open any more

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Packed:
    """An object without its large arrays, which are in `file`: the pages (start, end) of each."""

    content: bytes
    file: Path | None
    places: tuple[tuple[int, int], ...]


def once_per_machine(compute: Callable[[], Item], cache: Path) -> Item:
    """Return what `compute` returns; of all ranks of a machine, only the first one calls it.

    Its large NumPy arrays are read-only and memory-mapped, from a file in `cache`, if several ranks share them or they
    take more than 256 MB. All ranks call this function together; it has no time limit.

    Raises:
        PipelineError: the one that `compute` raised, on all ranks of the machine.
        ResourceError: the arrays cannot be written.
    """
    if not ranks.is_first_here:
        answer = pickle.loads(ranks.from_first_here(b""))
        item: Any = answer if isinstance(answer, PipelineError) else _unpack(answer)
        ranks.wait_for_others_here()
        if isinstance(answer, PipelineError):
            raise answer
        return item
    try:
        item = compute()
        packed = _pack(item, sound_cache(cache))
    except Exception as error:
        is_known = isinstance(error, PipelineError)
        told = error if is_known else ResourceError(f"rank {ranks.rank}: {error!r}", "See the messages above")
        ranks.from_first_here(pickle.dumps(told))
        ranks.wait_for_others_here(_PATIENCE_S)
        raise
    if packed is None:
        return item
    ranks.from_first_here(pickle.dumps(packed))
    if packed.file is not None:
        del item  # the arrays in memory are replaced by those in the file
        item = _unpack(packed)
    ranks.wait_for_others_here()
    if packed.file is not None:
        _delete(packed.file)
        _return_freed_memory()
    return item


def _pack(item: object, cache: Path) -> _Packed | None:
    """Return `item` as it is sent to the other ranks; None if there are none and its arrays stay where they are."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    size, is_alone = sum(buffer.raw().nbytes for buffer in buffers), ranks.num_here == 1
    if size < (_LEAST_BYTES_ALONE if is_alone else _LEAST_BYTES):
        return None if is_alone else _Packed(pickle.dumps(item), None, ())
    file = cache / f".shared-{secrets.token_hex(8)}"
    try:
        make_folder(cache)
        _delete_left_over(cache)
        with open_plain(file, "ab") as opened:
            return _Packed(content, file, tuple(_write(opened, buffers)))
    except OSError as error:
        _delete(file)
        if is_alone:
            return None
        raise unwritable(file, error) from error


def _write(file: BinaryIO, buffers: Iterable[pickle.PickleBuffer]) -> list[tuple[int, int]]:
    """Write all buffers; return the start and the end of each in the file."""
    places, end = [], 0
    for buffer in buffers:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        file.write(bytes(start - end))
        file.write(buffer.raw())
        end = start + buffer.raw().nbytes
        places.append((start, end))
    return places


def _unpack(packed: _Packed) -> Any:
    if packed.file is None:
        return pickle.loads(packed.content)
    with open_plain(packed.file, "rb") as file:
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # open for as long as an array of it
    return pickle.loads(packed.content, buffers=[pages[start:end] for start, end in packed.places])


def _delete(file: Path) -> None:
    with contextlib.suppress(OSError):  # Windows deletes no file that is mapped
        file.unlink()


def _delete_left_over(cache: Path) -> None:
    """Delete the files of runs that were killed, or that Windows kept."""
    for file in cache.glob(".shared-*"):
        with contextlib.suppress(OSError):
            if file.lstat().st_mtime < time.time() - _LEFT_OVER_S:
                file.unlink()


def _return_freed_memory() -> None:
    """Return to Linux what was needed for computing; see `keep_freed_memory` in Device for why it is not, otherwise."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
