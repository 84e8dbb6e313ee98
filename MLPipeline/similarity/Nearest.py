"""The rows of a matrix that are nearest to a query by cosine: exact, in blocks, in the memory of a few blocks.

N stored rows, Q queries, D features, K nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from MLPipeline.Device import start_threads
from MLPipeline.Errors import DataError
from MLPipeline.files.Machine import num_cores

_BLOCK_BYTES = 2**21  # of float32 features: they stay in the cache of a core between the two passes
_SMALLEST = 1e-30  # features of length 0 are similar to none


@dataclass(frozen=True)
class Nearest:
    """The nearest rows of each query, the most similar first."""

    positions: np.ndarray  # (Q, K) int64
    cosines: np.ndarray  # (Q, K) float32


def find_nearest(
    block: Callable[[int, int], np.ndarray], number: int, queries: np.ndarray, num_nearest: int
) -> Nearest:
    """Return the rows with the highest cosine to each of `queries` (Q, D).

    Args:
        block: returns the rows from a start to a stop, (stop - start, D) float32; called from several threads.
        number: of rows, N.
        queries: features of the queries.
        num_nearest: K; fewer are returned if there are fewer rows.

    Raises:
        DataError: features are not finite numbers.
    """
    targets = normalize(torch.from_numpy(queries.astype(np.float32))).T.contiguous()
    num_nearest = min(num_nearest, number)
    size = max(num_nearest, _BLOCK_BYTES // (4 * queries.shape[1]), 1)

    def best_of(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = torch.from_numpy(block(start, min(start + size, number)))
        lengths = torch.linalg.vector_norm(rows, dim=1).clamp_min(_SMALLEST)
        cosines = ((rows @ targets) / lengths[:, None]).T.numpy()
        if not np.isfinite(cosines).all():
            raise DataError("the features are not finite numbers", "Compute them again with embed")
        return _best(cosines, np.broadcast_to(np.arange(start, start + len(rows)), cosines.shape), num_nearest)

    # Each thread searches blocks of its own: threads that shared a product would wait for each other after each block.
    with start_threads(num_cores()) as pool:
        found = list(pool.map(best_of, range(0, number, size)))
    cosines, positions = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    cosines, positions = _best(cosines, positions, num_nearest)
    return Nearest(positions, cosines)


def _best(cosines: np.ndarray, positions: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `number` highest of each row of `cosines` (Q, M), in descending order, and their `positions`."""
    if cosines.shape[1] > number:
        chosen = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
        cosines, positions = (np.take_along_axis(each, chosen, axis=1) for each in (cosines, positions))
    order = np.lexsort((positions, -cosines), axis=1)
    return np.take_along_axis(cosines, order, axis=1), np.take_along_axis(positions, order, axis=1)
