"""Which images are judged together: every image is held out once, never beside a copy of it among those learnt from."""

from __future__ import annotations

import numpy as np


def assign_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) int64 of each image, every class spread evenly; images of one group share theirs."""
    _, first, member_of = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]  # dealt like cards, one class after the other
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % num_folds
    return folds[member_of]
