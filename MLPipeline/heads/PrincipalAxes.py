"""Coordinates in which heads are fitted fast: the directions in which the features of the images vary most.

N images, D features, R directions, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from MLPipeline.heads.LinearHead import LinearHead, product

# On clothing and on drawn playing cards, 512 directions of 1,280 gave the same accuracy in half the time.
MAX_DIRECTIONS = 512
_ROWS_AT_ONCE = 8192
_NEGLIGIBLE = 1e-6  # variance along a direction, relative to the largest one


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Principal component analysis, scaled so that a feature has a mean variance of 1; no label is used.

    All features are divided by one number: dividing each by its own deviation would make the noise of rarely active
    features as large as the signal of the others (test loss on clothing 0.38 instead of 0.34).
    """

    mean: np.ndarray  # (D,)
    directions: np.ndarray  # (D, R), orthogonal columns, scaled
    variances: np.ndarray  # (R,) of the images along the directions

    def project(self, features: np.ndarray) -> np.ndarray:
        """Return the coordinates (N, R) float32 of features (N, D)."""
        return product(features, self.directions) - product(self.mean[None], self.directions)

    def in_features(self, head: LinearHead) -> LinearHead:
        """Return the head for features (N, D) that equals `head`, which is for coordinates."""
        weights = product(self.directions, head.weights)
        return LinearHead(weights, head.bias - product(self.mean[None], weights)[0])


def principal_axes(features: np.ndarray) -> PrincipalAxes:
    """Return the axes of features (N, D) float32."""
    number, size = features.shape
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    if number < size:  # the N x N matrix is the smaller one
        centred = torch.from_numpy(features - mean)
        squares, left = torch.linalg.eigh((centred @ centred.T).double())
        kept = _largest(squares)
        directions = centred.T @ (left[:, kept] / squares[kept].sqrt()).float()
    else:
        products = torch.zeros(size, size)
        for first in range(0, number, _ROWS_AT_ONCE):
            centred = torch.from_numpy(features[first : first + _ROWS_AT_ONCE] - mean)
            products += centred.T @ centred
        squares, right = torch.linalg.eigh(products.double())
        kept = _largest(squares)
        directions = right[:, kept].float()
    squares = squares.clamp(min=0)
    scale = float((squares.sum() / (number * size)).sqrt()) or 1.0  # 0: all images are equal
    variances = squares[kept] / (number * scale**2)
    return PrincipalAxes(mean, (directions / scale).numpy(), variances.float().numpy())


def _largest(squares: torch.Tensor) -> torch.Tensor:
    """Return the indices of up to 512 of the ascending `squares`, the largest first, without negligible ones."""
    order = torch.arange(len(squares) - 1, -1, -1)[:MAX_DIRECTIONS]
    return order[squares[order] > _NEGLIGIBLE * squares[-1]]
