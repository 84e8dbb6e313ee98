"""The scores of a model on one split, as they are drawn. N images, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions, labels and metrics; NumPy arrays, because they are drawn in a process without torch."""

    probabilities: np.ndarray  # (N, C) float64
    predicted: np.ndarray  # (N,) int64
    labels: np.ndarray  # (N,) int64
    metrics: Mapping[str, Any]  # of `evaluate`
    classes: Sequence[str]

    @property
    def is_right(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels
