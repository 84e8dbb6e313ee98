"""Multinomial logistic regression with an L2 penalty, by L-BFGS.

The search is in weights that are scaled by the expected curvature of the loss: that takes a third of the steps, and
leads to the same head. The gradient of a linear head takes two products, written out here: the same as autograd's, to
within rounding, without its overhead. Logits are stored class by class, since a softmax over the few classes of each
image in turn takes as long as a product with all features (0.49 ms for 2,454 images of 10 classes; 0.09 ms this way),
and so is their gradient, whose product with the features takes half the time in that order.

N images, R coordinates (see PrincipalAxes), C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
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
    point = torch.zeros((rows.shape[1] + 1) * targets.shape[1])  # of the search
    scaled, bias = _head_at(point, targets.shape[1])
    if start is not None:
        scaled.copy_(torch.from_numpy(start.weights) / unit)
        bias.copy_(torch.from_numpy(start.bias))
    search = LBFGS([point], max_iter=_MAX_STEPS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe")
    search.step(_cost(point, inputs, wanted, share, unit, penalty))
    return LinearHead((unit * scaled).numpy(), bias.numpy())


def _cost(
    point: Tensor, inputs: Tensor, wanted: Tensor, share: Tensor, unit: Tensor, penalty: float
) -> Callable[[], Tensor]:
    """Return a function that returns the loss at `point`, and writes its gradient to `point.grad`."""
    scaled, bias = _head_at(point, wanted.shape[1])
    point.grad = torch.zeros_like(point)
    slopes_gradient, bias_gradient = _head_at(point.grad, wanted.shape[1])
    wanted = wanted.T.contiguous()  # (C, N)
    negative = -(share * torch.tensor(1 / len(share))) * wanted  # gradient for the logarithms (C, N)

    def cost() -> Tensor:
        slopes = unit * scaled
        logarithms = torch.log_softmax(torch.addmm(bias, inputs, slopes).T.contiguous(), 0)
        gradient = torch._log_softmax_backward_data(negative, logarithms, 0, torch.float32)  # for the logits (C, N)
        torch.sum(gradient, 1, out=bias_gradient)
        torch.mul((gradient @ inputs).T + torch.tensor(penalty / 2) * (2 * slopes), unit, out=slopes_gradient)
        return -(logarithms * wanted).sum(0) @ share / len(share) + penalty / 2 * slopes.square().sum()

    return cost


def _head_at(point: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the weights (R, C) and the bias (C,) that a point of the search consists of."""
    return point[:-num_classes].view(-1, num_classes), point[-num_classes:]
