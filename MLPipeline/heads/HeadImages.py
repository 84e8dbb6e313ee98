"""What heads are fitted on: one row of features per image, with its label, group and weight.

N images, M of them, D features or coordinates, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from MLPipeline.Head import SquareRoot, have_roots
from MLPipeline.heads.PrincipalAxes import PrincipalAxes


@dataclass(frozen=True, eq=False)
class HeadImages:
    """Images to fit a head on. An augmented view of an image is an image of the same group that is never left out."""

    rows: np.ndarray  # (N, D) float32
    labels: np.ndarray  # (N,) int64
    num_classes: int
    groups: np.ndarray  # (N,) int64; images of one group, such as copies, are never separated
    weights: np.ndarray  # (N,) float32, of each image in the loss
    is_view: np.ndarray  # (N,) bool
    smoothing: float = 0.0  # share of each target that is spread over all classes

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """(N, C) float32, rows that sum to 1."""
        one_hot = np.eye(self.num_classes, dtype=np.float32)[self.labels]
        return (1 - self.smoothing) * one_hot + np.float32(self.smoothing / self.num_classes)

    def only(self, chosen: np.ndarray) -> HeadImages:
        """Return the images at the positions `chosen` (M,), or where it is true (N,)."""
        parts = {name: getattr(self, name)[chosen] for name in ("rows", "labels", "groups", "weights", "is_view")}
        return replace(self, **parts)

    def along(self, axes: PrincipalAxes) -> HeadImages:
        """Return the same images with coordinates in place of features."""
        return replace(self, rows=axes.project(self.rows))


def rooted(rows: np.ndarray) -> np.ndarray:
    """Return the square roots of features (N, D) float32 if a head reads these, or else `rows`."""
    return square_roots(rows) if have_roots(torch.from_numpy(rows)) else rows


def square_roots(rows: np.ndarray) -> np.ndarray:
    """Return the square roots of features (N, D) float32, computed as by the head."""
    return SquareRoot()(torch.from_numpy(rows)).numpy()


def plain_images(
    rows: np.ndarray, labels: np.ndarray, num_classes: int, groups: np.ndarray | None = None
) -> HeadImages:
    """Return images without views that all count the same; without `groups`, none is a copy of another."""
    groups = np.arange(len(labels)) if groups is None else groups
    weights, is_view = np.ones(len(labels), np.float32), np.zeros(len(labels), bool)
    return HeadImages(rows, labels, num_classes, groups, weights, is_view)
