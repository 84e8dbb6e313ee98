"""The principal axes of stored features, kept in the cache: computed once for the same images.

They depend on the features alone. So a run with corrected labels, other settings or another seed finds them, if its
training images are the same. N images, D features, R directions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MLPipeline.files.StoredResult import decode_arrays, encode_arrays, result_file, stored_result
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
    found = stored_result(file, lambda: principal_axes(features).__dict__, encode_arrays, decode_arrays)
    return PrincipalAxes(**found)
