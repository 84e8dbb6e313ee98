"""The principal axes of stored features, kept in the cache: computed once for the same images.

They depend on the features alone. So a run with corrected labels, other settings or another seed finds them, if its
training images are the same. N images, D features, R directions.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from MLPipeline.files.CacheFiles import read_signed, sound_cache, write_signed
from MLPipeline.heads.PrincipalAxes import MAX_DIRECTIONS, PrincipalAxes, principal_axes

_FORMAT = 1  # increases with every change to how they are computed


def stored_axes(features: np.ndarray, cache: Path | None) -> PrincipalAxes:
    """Return the axes of features (N, D) float32, as `principal_axes` does; without a `cache`, they are computed.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if cache is None:
        return principal_axes(features)
    about = f"{_FORMAT} {MAX_DIRECTIONS} {features.shape} {features.dtype.str}"
    state = hashlib.blake2b(about.encode(), digest_size=12)
    state.update(np.ascontiguousarray(features).data)
    file = sound_cache(cache) / "axes" / f"{state.hexdigest()}.npz"
    if (stored := read_signed(file)) is not None:
        with np.load(io.BytesIO(stored)) as kept:
            return PrincipalAxes(kept["mean"], kept["directions"], kept["variances"])
    axes, archive = principal_axes(features), io.BytesIO()
    np.savez(archive, **axes.__dict__)
    write_signed(file, archive.getvalue())
    return axes
