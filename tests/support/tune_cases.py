"""A small problem for tests of Tune: clusters of points whose test rows must not be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, ImageIndex
from MLPipeline.tuning.Tune import Problem, Search
from tests.support.train_cases import CPU, NUM_FEATURES, linear, points, settings


@dataclass(frozen=True)
class Untested:
    """Rows in memory; reading the row of a test image fails."""

    rows: Tensor
    index: ImageIndex
    row_bytes = 4 * NUM_FEATURES

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        assert not (self.index.splits[positions] == TEST).any(), "a test image is read"
        return self.rows[torch.from_numpy(positions)]


def problem(num_rows: int = 48, noise: float = 1.0) -> Problem:
    """Return a problem with 1/2 training, 1/4 validation and 1/4 test images."""
    rows, labels = points(num_rows)
    rows = rows + noise * torch.randn(rows.shape, generator=torch.Generator().manual_seed(5))
    splits = np.array([TRAIN, VAL, TRAIN, TEST] * (num_rows // 4), np.int8)
    index = ImageIndex(
        Path(), ("a", "b", "c"), labels.numpy().astype(np.int32), splits, (), b"", np.zeros(num_rows, np.int64)
    )
    return Problem(linear(), Untested(rows, index), index, CPU)


def search(folder: Path, num_trials: int = 0, of: Problem | None = None, **stated: Any) -> Search:
    """Return a search in `folder` after `num_trials` more trials."""
    folder.mkdir(exist_ok=True)
    found = Search(of or problem(), settings(**{"epochs": 3} | stated), folder)
    for _ in range(num_trials):
        found.next_trial()
    return found
