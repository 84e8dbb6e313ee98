"""Folds for cross-validation: stratified by class, with the copies of an image in one fold."""

from __future__ import annotations

import numpy as np


def assign_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) int64 of each image, stratified by class; images of one group are in the same fold."""
    _, first, member_of = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]  # dealt out to the folds class by class
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % num_folds
    return folds[member_of]
