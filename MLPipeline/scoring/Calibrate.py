"""Temperature scaling: calibrates a trained model by dividing its logits by a temperature.

Source: C. Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy

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

    def cost(log_temperature: float) -> float:
        loss = cross_entropy(logits / math.exp(log_temperature), labels, reduction="sum")
        return float(loss) + log_temperature**2 / 2

    low, high = math.log(COLDEST), math.log(HOTTEST)
    with torch.inference_mode():
        while high - low > _TOLERANCE:  # golden-section search
            left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
            low, high = (low, right) if cost(left) <= cost(right) else (left, high)
    return round(math.exp((low + high) / 2), _DECIMALS)
