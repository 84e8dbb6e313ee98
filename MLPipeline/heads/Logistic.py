"""Multinomial logistic regression with an L2 penalty, by L-BFGS.

The search is in weights that are scaled by the expected curvature of the loss: that takes a third of the steps, and
leads to the same head.

N images, R coordinates (see PrincipalAxes), C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS

from MLPipeline.heads.LinearHead import LinearHead

_MAX_STEPS = 100
_TOLERANCE = 1e-3  # of the gradient: at 1e-5 it takes three times as many steps, for the same accuracy
_CURVATURE = 0.1  # roughly the mean of p (1 - p), by which the loss curves


def fit_logistic(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    variances: np.ndarray,
    penalty: float,
    start: LinearHead | None = None,
) -> LinearHead:
    """Return the head with the lowest weighted mean cross-entropy plus penalty / 2 times its squared weights.

    Args:
        rows: coordinates (N, R) float32.
        targets: (N, C) float32, rows that sum to 1.
        weights: (N,) float32, of each image in the loss; their mean is 1.
        variances: (R,) of the coordinates.
        penalty: positive.
        start: where to begin; for instance the head of a larger penalty.

    Source: Liu and Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, Mathematical Programming 45
    (1989).
    """
    inputs, wanted, share = (torch.from_numpy(np.ascontiguousarray(each)) for each in (rows, targets, weights))
    unit = torch.from_numpy(1 / np.sqrt(_CURVATURE * variances + penalty, dtype=np.float32))[:, None]  # (R, 1)
    scaled, bias = torch.zeros(rows.shape[1], targets.shape[1]), torch.zeros(targets.shape[1])
    if start is not None:
        scaled, bias = torch.from_numpy(start.weights) / unit, torch.from_numpy(start.bias).clone()
    parameters = [scaled.requires_grad_(), bias.requires_grad_()]
    optimizer = LBFGS(parameters, max_iter=_MAX_STEPS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        optimizer.zero_grad()
        slopes = unit * scaled
        losses = cross_entropy(torch.addmm(bias, inputs, slopes), wanted, reduction="none")
        total = losses @ share / len(share) + penalty / 2 * slopes.square().sum()
        total.backward()
        return total

    optimizer.step(cost)
    return LinearHead((unit * scaled).detach().numpy(), bias.detach().numpy())
