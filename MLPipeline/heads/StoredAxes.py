"""The principal axes of stored features, kept in the cache: computed once for the same images.

They depend on the features alone. So a run with corrected labels, other settings or another seed finds them, if its
training images are the same. N images, D features, R directions.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from MLPipeline.files.StoredResult import result_file, stored_result
from MLPipeline.heads.PrincipalAxes import MAX_DIRECTIONS, PrincipalAxes, principal_axes

_FORMAT = 1  # increases with every change to how they are computed


def stored_axes(features: np.ndarray, cache: Path | None) -> PrincipalAxes:
    """Return the axes of features (N, D) float32, as `principal_axes` does; without a `cache`, they are computed.

    Raises:
        ResourceError: the cache cannot be written.
    """
    if cache is None:
        return principal_axes(features)
    file = result_file(cache, "axes", (_FORMAT, MAX_DIRECTIONS), features)
    return stored_result(file, lambda: principal_axes(features), _encode, _decode)


def _encode(axes: PrincipalAxes) -> bytes:
    archive = io.BytesIO()
    np.savez(archive, **axes.__dict__)
    return archive.getvalue()


def _decode(stored: bytes) -> PrincipalAxes:
    with np.load(io.BytesIO(stored)) as kept:
        return PrincipalAxes(kept["mean"], kept["directions"], kept["variances"])
