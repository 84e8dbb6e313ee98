"""Whether mirrored or rotated images still belong to their class: of "left" and "right" arrows they do not.

A linear head is fitted out of fold, and classifies each image twice: as it is, and moved (mirrored, say). Two classes
are exchanged by the move if, of the images that are classified correctly as they are, most of the one class are
classified as the other when moved, and a significant part of the other as the one. Both directions are required,
because mirroring twice restores the image: images that merely look strange when mirrored end up in one class, and
nothing comes back. Checked on photographs of clothing and on CIFAR-10 (nothing is exchanged by mirroring left to right)
and on arrows (all of 80 are).
N images, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MLPipeline.audit.LinearHead import assign_folds, head_of_few
from MLPipeline.scoring.Intervals import wilson_interval

NUM_FOLDS = 5
MIN_CORRECT = 8  # images of each of the two classes that are classified correctly: with fewer nothing is significant
MOST = 0.5  # share of the one class that becomes the other
MOST_LOW, PART_LOW = 0.3, 0.1  # lower ends of the intervals of that share, and of the share that comes back
_Z = 2.58  # of these intervals: 99 %
_CELLS, _ORIENTATIONS = 4, 16


@dataclass(frozen=True)
class Exchange:
    """Two classes that a move exchanges."""

    first: int
    second: int
    number: int  # images of the first class that are classified as the second when moved
    total: int  # images of the first class that are classified correctly as they are

    def to_text(self, classes: Sequence[str]) -> str:
        """Return `37 of 40 images of left are classified as right`."""
        return f"{self.number} of {self.total} images of {classes[self.first]} are classified as {classes[self.second]}"


def find_exchange(
    features: np.ndarray, moved: Sequence[np.ndarray], back: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> Exchange | None:
    """Return the two classes that a move exchanges most clearly; None if it exchanges none.

    Args:
        features: (N, D) float32 of the images as they are.
        moved: the features (N, D) of the moved images, one array for each variant: rotations by different angles, say.
        back: those of the inverse move of each variant; of a mirror image the same.
        labels: (N,) int64.
        num_classes: C.
    """
    folds = assign_folds(labels, np.arange(len(labels)), NUM_FOLDS, seed=0)
    answers = [np.full(len(labels), -1) for _ in range(1 + len(moved) + len(back))]  # -1: too few images for a fold
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        if not held_out.any() or held_out.all():
            continue
        head = head_of_few(features, labels, num_classes, np.flatnonzero(~held_out))
        for answer, rows in zip(answers, (features, *moved, *back), strict=True):
            answer[held_out] = head.logits(rows[held_out]).argmax(axis=1)
    is_right = answers[0] == labels
    there, here = answers[1 : 1 + len(moved)], answers[1 + len(moved) :]
    found = [
        exchange
        for forth, return_ in zip(there, here, strict=True)
        if (exchange := _most_exchanged(labels[is_right], forth[is_right], return_[is_right], num_classes))
    ]
    return max(found, key=lambda each: each.number / each.total, default=None)


def _most_exchanged(labels: np.ndarray, forth: np.ndarray, back: np.ndarray, num_classes: int) -> Exchange | None:
    """Return the pair of classes of which most images change from one to the other, and a part changes back."""
    totals = np.bincount(labels, minlength=num_classes)
    there, here = (
        np.bincount(labels * num_classes + each, minlength=num_classes**2).reshape(num_classes, num_classes)
        for each in (forth, back)
    )
    found = []
    for first, second in np.argwhere(there >= MOST * np.maximum(totals, 1)[:, None]).tolist():
        number, total = int(there[first, second]), int(totals[first])
        returned, other = int(here[second, first]), int(totals[second])
        if first == second or min(total, other) < MIN_CORRECT:
            continue
        if wilson_interval(number, total, _Z)[0] > MOST_LOW and wilson_interval(returned, other, _Z)[0] > PART_LOW:
            found.append(Exchange(first, second, number, total))
    return max(found, key=lambda each: each.number / each.total, default=None)


def edge_histograms(pictures: np.ndarray) -> np.ndarray:
    """Return histograms (N, 272) float32 of the directions of edges, of whole pictures and of 4 x 4 cells of each.

    The directions are signed, from dark to bright, so that mirrored shapes have other histograms.

    Args:
        pictures: (N, H, W) uint8 grey.

    Source: N. Dalal and B. Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.
    """
    grey = pictures.astype(np.float32)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength, turn = np.hypot(across, down), np.arctan2(down, across) / (2 * np.pi) * _ORIENTATIONS
    lower = np.floor(turn).astype(np.int64)
    rows, columns = (np.arange(size) * _CELLS // size for size in grey.shape[1:])
    cells = np.arange(len(grey))[:, None, None] * _CELLS**2 + (rows[:, None] * _CELLS + columns)
    size = len(grey) * _CELLS**2 * _ORIENTATIONS
    histograms = np.zeros(size, np.float32)
    for direction, weight in ((lower, 1 - (turn - lower)), (lower + 1, turn - lower)):
        places = cells * _ORIENTATIONS + direction % _ORIENTATIONS
        histograms += np.bincount(places.ravel(), (weight * strength).ravel(), minlength=size).astype(np.float32)
    per_cell = histograms.reshape(len(grey), _CELLS**2, _ORIENTATIONS)
    return np.concatenate([_normalized(per_cell.sum(1)), _normalized(per_cell.reshape(len(grey), -1))], axis=1)


def _normalized(histograms: np.ndarray) -> np.ndarray:
    """Return the square roots of the shares (Hellinger): strong edges do not hide the others."""
    return np.sqrt(histograms / (histograms.sum(axis=1, keepdims=True) + 1e-6))
