"""Temperature scaling: calibrates a trained model by dividing its logits by a temperature.

Source: C. Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import log_softmax

from MLPipeline.scoring.Predictions import Predictions

COLDEST, HOTTEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_TOLERANCE, _DECIMALS = 1e-5, 4  # of log(T), and of the returned temperature


def calibrated(predictions: Predictions) -> Predictions:
    """Return the predictions at the temperature that `fit_temperature` finds for them."""
    return predictions.scaled(fit_temperature(predictions))


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature, 0.05 to 20, at which the cross-entropy of these validation images is lowest.

    The predicted classes do not change. Unlike in the paper, log(T) has a standard normal prior, which adds
    log(T)^2 / 2 to the summed loss: with hundreds of images it has no effect; without it, a few images that are all
    classified correctly would make every prediction certain. Returns 1 without images, or if the model has diverged.
    """
    logits, labels = predictions.logits.double(), predictions.labels
    if not len(labels) or not bool(logits.isfinite().all()):
        return 1.0

    by_class, of_labels = logits.T.contiguous(), labels[None]  # (C, N): a softmax in this order is faster

    def cost(log_temperature: float) -> float:
        logarithms = log_softmax(by_class / math.exp(log_temperature), 0)
        return -float(logarithms.gather(0, of_labels).sum()) + log_temperature**2 / 2

    with torch.inference_mode():
        lowest = _minimize(cost, math.log(COLDEST), math.log(HOTTEST))
    return round(math.exp(lowest), _DECIMALS)


def _minimize(cost: Callable[[float], float], low: float, high: float) -> float:
    """Return where between `low` and `high` the `cost` is lowest, by golden-section search (Kiefer, 1953).

    Every step divides the interval so that one of its two points is a point of the step before.
    """
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_left, of_right = cost(left), cost(right)
    while high - low > _TOLERANCE:
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - _GOLDEN * (high - low)
            of_left = cost(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + _GOLDEN * (high - low)
            of_right = cost(right)
    return (low + high) / 2
