"""Whether mirrored or rotated images still belong to their class: images of "left" and "right" arrows do not.

A linear head, fitted out of fold, classifies each image twice: unchanged and transformed (mirrored, for example). A
transformation exchanges two classes if, among the correctly classified images, it changes the prediction of most
images of the first class to the second, and that of a significant share of the second class to the first. Both
directions are required, because mirroring twice restores the image: images that merely look unusual when mirrored are
all assigned to one class, and none changes in the opposite direction. Both shares must also exceed, significantly, the
share of unchanged images that are confused in this way: a head that cannot tell two classes apart classifies their
mirror images by chance, so half of those of the correctly classified images would seem exchanged. Checked on
photographs of clothing and on CIFAR-10 (mirroring left to right exchanges no classes), on noise, and on arrows (all 80
are exchanged).
N images, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.LinearHead import head_of_few
from MLPipeline.scoring.Intervals import wilson_interval

NUM_FOLDS = 5
MIN_CORRECT = 8  # correctly classified images of each of the two classes: with fewer, nothing is significant
MOST = 0.5  # share of the first class that is assigned to the second
MOST_LOW, PART_LOW = 0.3, 0.1  # lower ends of the intervals of that share, and of the share that changes back
_Z = 2.58  # of these intervals: 99 %
_CELLS, _ORIENTATIONS = 4, 16


@dataclass(frozen=True)
class Exchange:
    """Two classes that a transformation exchanges."""

    first: int
    second: int
    number: int  # images of the first class that are classified as the second when transformed
    total: int  # images of the first class that are classified correctly when unchanged

    def to_text(self, classes: Sequence[str]) -> str:
        """Return `37 of 40 images of left are classified as right`."""
        return f"{self.number} of {self.total} images of {classes[self.first]} are classified as {classes[self.second]}"


def find_exchange(
    features: np.ndarray, moved: Sequence[np.ndarray], back: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> Exchange | None:
    """Return the two classes that a transformation exchanges most clearly; None if it exchanges none.

    Args:
        features: (N, D) float32 of the unchanged images.
        moved: the features (N, D) of the transformed images, one array per variant (rotations by different angles).
        back: the features for the inverse of each variant; mirroring is its own inverse.
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
    is_right, is_known = answers[0] == labels, answers[0] >= 0
    confused = _confusion(labels[is_known], answers[0][is_known], num_classes)
    found = [
        exchange
        for forward, inverse in zip(answers[1 : 1 + len(moved)], answers[1 + len(moved) :], strict=True)
        if (exchange := _most_exchanged(labels[is_right], forward[is_right], inverse[is_right], confused))
    ]
    return max(found, key=lambda each: each.number / each.total, default=None)


def _confusion(labels: np.ndarray, answers: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(labels * num_classes + answers, minlength=num_classes**2).reshape(num_classes, num_classes)


def _most_exchanged(
    labels: np.ndarray, forward: np.ndarray, inverse: np.ndarray, confused: np.ndarray
) -> Exchange | None:
    """Return the pair of classes with the largest share of images that change class, if enough of them change back.

    `labels`, `forward` and `inverse` are of the images classified correctly; `confused` is the confusion matrix (C, C)
    of all unchanged images.
    """
    num_classes = len(confused)
    totals = np.bincount(labels, minlength=num_classes)
    changed, changed_back = (_confusion(labels, each, num_classes) for each in (forward, inverse))
    usual = confused / np.maximum(confused.sum(axis=1, keepdims=True), 1)
    found = []
    for first, second in np.argwhere(changed >= MOST * np.maximum(totals, 1)[:, None]).tolist():
        number, total = int(changed[first, second]), int(totals[first])
        returned, other = int(changed_back[second, first]), int(totals[second])
        if first == second or min(total, other) < MIN_CORRECT:
            continue
        most, part = max(MOST_LOW, usual[first, second]), max(PART_LOW, usual[second, first])
        if wilson_interval(number, total, _Z)[0] > most and wilson_interval(returned, other, _Z)[0] > part:
            found.append(Exchange(first, second, number, total))
    return max(found, key=lambda each: each.number / each.total, default=None)


def edge_histograms(pictures: np.ndarray) -> np.ndarray:
    """Return histograms (N, 272) float32 of the edge directions in each whole image and in its 4 x 4 cells.

    The directions are signed, from dark to bright, so that mirrored shapes have different histograms.

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
    """Return the square roots of the relative frequencies (Hellinger), so that strong edges do not dominate."""
    return np.sqrt(histograms / (histograms.sum(axis=1, keepdims=True) + 1e-6))
