"""Folds for cross-validation: stratified by class, with the copies of an image in one fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Fold:
    """A part of the images, tested by what was trained on the others."""

    others: np.ndarray  # (M,) int64: positions of the images to train on
    tested: np.ndarray  # (K,) int64: positions of the images of the fold, but for those of classes without others


@dataclass(frozen=True, eq=False)
class Folds:
    """All folds that test an image."""

    parts: tuple[Fold, ...]
    short: Mapping[int, int]  # class -> number of folds that have images of it, where not all of them do

    @property
    def tested(self) -> np.ndarray:
        """(M,) int64: positions of all tested images, in the order of the folds."""
        return np.concatenate([part.tested for part in self.parts])


def make_folds(labels: np.ndarray, groups: np.ndarray, num_classes: int, num_folds: int, seed: int) -> Folds:
    """Return the folds of images with these `labels` (N,), stratified by class; those of one group are in one fold."""
    folds, parts = assign_folds(labels, groups, num_folds, seed), []
    for fold in range(num_folds):
        others = np.flatnonzero(folds != fold)
        tested = np.flatnonzero((folds == fold) & np.isin(labels, labels[others]))
        if len(tested):
            parts.append(Fold(others, tested))
    spread = {label: len(np.unique(folds[labels == label])) for label in range(num_classes)}
    return Folds(tuple(parts), {label: number for label, number in spread.items() if number < num_folds})


def assign_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) int64 of each image, stratified by class; images of one group are in the same fold."""
    _, first, member_of = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]  # dealt out to the folds class by class
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % num_folds
    return folds[member_of]
