"""Multinomial logistic regression with an L2 penalty, by L-BFGS.

The search is in weights that are scaled by the expected curvature of the loss: that takes a third of the steps, and
leads to the same head. The gradient of a linear head takes two products, written out here: the same as autograd's, to
within rounding, without its overhead. Logits are stored class by class, since a softmax over the few classes of each
image in turn takes as long as a product with all features (0.49 ms for 2,454 images of 10 classes; 0.09 ms this way),
and so is their gradient, whose product with the features takes half the time in that order.

The heads of all folds are fitted in one search: a product with the weights of five heads of ten classes takes little
longer than with those of one, since most of the time is needed to read the features (1.0 s instead of 2.5 s for 25
heads). The sum of their losses is lowest where each of them is.

N images, R coordinates (see PrincipalAxes), K heads, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import LBFGS

from MLPipeline.heads.LinearHead import LinearHead

_MAX_STEPS = 100
_TOLERANCE = 1e-3  # of the gradient: at 1e-5 it takes three times as many steps, for the same accuracy
_CURVATURE = 0.1  # roughly the mean of p (1 - p), by which the loss curves
_LOGITS_AT_ONCE = 10**7  # of all heads that are fitted in one search


def fit_logistic(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    variances: np.ndarray,
    penalty: float,
    starts: Sequence[LinearHead] | None = None,
) -> list[LinearHead]:
    """Return K heads, each with the lowest weighted mean cross-entropy plus penalty / 2 times its squared weights.

    Args:
        rows: coordinates (N, R) float32.
        targets: (N, C) float32, rows that sum to 1.
        weights: (K, N) float32, of each image in the loss of each head; 0 leaves it out.
        variances: (R,) of the coordinates.
        penalty: positive.
        starts: where to begin, K heads; for instance those of a larger penalty.

    Source: Liu and Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, Mathematical Programming 45
    (1989).
    """
    size, heads = max(1, _LOGITS_AT_ONCE // targets.size), []
    for first in range(0, len(weights), size):
        some = slice(first, first + size)
        heads += _fit_together(rows, targets, weights[some], variances, penalty, starts and starts[some])
    return heads


def _fit_together(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    variances: np.ndarray,
    penalty: float,
    starts: Sequence[LinearHead] | None,
) -> list[LinearHead]:
    share = weights / weights.sum(1, dtype=np.float64)[:, None]
    inputs, wanted = (torch.from_numpy(np.ascontiguousarray(each)) for each in (rows, targets))
    unit = torch.from_numpy(1 / np.sqrt(_CURVATURE * variances + penalty, dtype=np.float32))[:, None]  # (R, 1)
    number = weights.shape[0] * targets.shape[1]
    point = torch.zeros((rows.shape[1] + 1) * number)  # of the search
    scaled, bias = _heads_at(point, number)
    if starts is not None:
        scaled.copy_(torch.from_numpy(np.concatenate([head.weights for head in starts], 1)) / unit)
        bias.copy_(torch.from_numpy(np.concatenate([head.bias for head in starts])))
    search = LBFGS([point], max_iter=_MAX_STEPS, tolerance_grad=_TOLERANCE, line_search_fn="strong_wolfe")
    search.step(_cost(point, inputs, wanted, torch.from_numpy(share).float(), unit, penalty))
    slopes, biases = ((unit * scaled).split(targets.shape[1], 1), bias.split(targets.shape[1]))
    return [LinearHead(each.contiguous().numpy(), own.numpy()) for each, own in zip(slopes, biases, strict=True)]


def _cost(
    point: Tensor, inputs: Tensor, wanted: Tensor, share: Tensor, unit: Tensor, penalty: float
) -> Callable[[], Tensor]:
    """Return a function that returns the sum of all losses at `point`, and writes its gradient to `point.grad`."""
    (number, num_images), num_classes = share.shape, wanted.shape[1]
    scaled, bias = _heads_at(point, number * num_classes)
    point.grad = torch.zeros_like(point)
    slopes_gradient, bias_gradient = _heads_at(point.grad, number * num_classes)
    negative = (-share[:, None] * wanted.T).contiguous()  # gradient for the logarithms (K, C, N)

    def cost() -> Tensor:
        slopes = unit * scaled
        logits = torch.addmm(bias, inputs, slopes).T.contiguous().view(number, num_classes, num_images)
        logarithms = torch.log_softmax(logits, 1)
        gradient = torch._log_softmax_backward_data(negative, logarithms, 1, torch.float32)  # for the logits
        gradient = gradient.view(-1, num_images)  # (K C, N)
        torch.sum(gradient, 1, out=bias_gradient)
        torch.mul((gradient @ inputs).T + penalty * slopes, unit, out=slopes_gradient)
        return torch.dot(logarithms.view(-1), negative.view(-1)) + penalty / 2 * slopes.square().sum()

    return cost


def _heads_at(point: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the weights (R, K C) and the biases (K C,) that a point of the search consists of."""
    return point[:-number].view(-1, number), point[-number:]
