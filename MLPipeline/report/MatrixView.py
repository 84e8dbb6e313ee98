"""The confusion matrix on a page: shaded cells, and the most frequently confused pairs of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_SHADES = 10


@dataclass(frozen=True)
class Cell:
    """The number of images of class `true` classified as `predicted`; `shade` is 0 to 10, darker for a larger share."""

    true: int
    predicted: int
    count: int
    shade: int = 0


def shaded_rows(matrix: np.ndarray) -> list[list[Cell]]:
    """Return the rows of the counts `(C, C)`, shaded by share, off the diagonal by its root: 1 in 20 is visible."""
    supports = matrix.sum(axis=1).tolist()
    return [
        [
            Cell(row, column, count, math.ceil(NUM_SHADES * (share if row == column else math.sqrt(share))))
            for column, count in enumerate(counts)
            for share in [count / max(supports[row], 1)]
        ]
        for row, counts in enumerate(matrix.tolist())
    ]


def most_confused(matrix: np.ndarray, limit: int) -> list[Cell]:
    """Return up to `limit` cells off the diagonal of the counts `(C, C)` with the most images, by falling count."""
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    cells = [divmod(place, len(matrix)) for place in order.tolist()]
    return [Cell(row, column, int(mistakes[row, column])) for row, column in cells if mistakes[row, column]]
