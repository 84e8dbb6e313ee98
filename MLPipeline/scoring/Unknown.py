"""When to answer `unknown`: for images unlike all that training saw, and for answers that are not sure enough.

An image is far from the training images if its features point away from the mean features of every class: the cosine
distance to the nearest of them is larger than for 95 % of the validation images. Measured on photographs of clothing
with EfficientNet-Lite0, each of ten classes left out of training in turn, confidences cut for 95 % right answers: of
the left-out class 40 % are flagged by confidence alone, 50 % with this distance as well, of the known classes 20 % both
times. The distance to the 5th nearest training image (arXiv:2204.06507) came to 46 %, the largest logit to 40 %, and
relative Mahalanobis distances (arXiv:2106.09022) told left-out from known worse than any of these.
B images of a batch, N validation images, C classes, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from MLPipeline.Errors import DataError
from MLPipeline.scoring.Intervals import wilson_interval
from MLPipeline.scoring.Predictions import Predictions

UNKNOWN = "unknown"
USUAL_SHARE = 0.95  # of the images that look like those of training are near them
NOTHING_IS = 2.0  # sure enough: a confidence that none reaches
_DRIFT_Z = 3.29  # one false alarm in two thousand


@dataclass(frozen=True, eq=False)
class FeatureCenters:
    """What the training images look like to the network: enough to tell when new ones do not."""

    centers: Tensor  # (C, D) float16: the mean features of each class, as unit vectors
    max_distance: float  # beyond, an image is far from all that training saw; inf: too few images to tell

    def is_far(self, distances: Tensor) -> Tensor:
        """Return which images (B,) bool are far from the training images."""
        return ~(distances <= self.max_distance)  # not a number is far


def distances_to(centers: Tensor, features: Tensor) -> Tensor:
    """Return the cosine distance (B,) float32, 0 to 2, of `features` (B, D) to the nearest of the `centers` (C, D).

    Raises:
        DataError: they are of different networks.
    """
    if features.shape[1] != centers.shape[1]:
        raise DataError("model.pt: its training fingerprint is of another network", "Train the model again")
    return 1 - (normalize(features.float(), dim=1) @ centers.float().T).amax(dim=1)


def usual_distance(distances: Tensor) -> float:
    """Return what 95 % of images like these stay below, from their `distances` (N,); inf if N is under 19.

    The (N + 1) * 95 %-th smallest, so that a new image of the same kind exceeds it in 5 % of cases, for any N.
    Source: S. Bates et al., Testing for Outliers with Conformal p-values, arXiv:2104.08279.
    """
    place = math.ceil((len(distances) + 1) * USUAL_SHARE)
    return float(distances.sort().values[place - 1]) if place <= len(distances) else math.inf


@dataclass(frozen=True)
class UnknownRule:
    """Which answers are given: those near the training images, and at least this confident.

    Coverage and precision are those of the validation images; the true precision on new images of the known classes
    may lie anywhere in the interval.
    """

    target_precision: float
    min_confidence: float  # after temperature scaling; above 1: none was enough, nothing is answered
    coverage: float  # the share of images that get an answer
    precision: float | None  # the share of right answers among them; None without any
    precision_ci95: tuple[float, float]

    def is_unknown(self, confidence: Tensor, is_far: Tensor) -> Tensor:
        """Return which images (B,) bool get no answer."""
        return is_far | ~(confidence >= self.min_confidence)  # not a number is not known

    def to_text(self) -> str:
        """Return `answered 73.2 % of the images, of those 98.1 % rightly (95 % interval ...)`."""
        if self.precision is None:
            return (
                f"answered none of the images: no confidence stands for {100 * self.target_precision:g} % right answers"
            )
        low, high = (100 * bound for bound in self.precision_ci95)
        return (
            f"answered {100 * self.coverage:.1f} % of the images, of those {100 * self.precision:.1f} % rightly "
            f"(95 % interval {low:.1f} to {high:.1f} %; asked for {100 * self.target_precision:g} %), the rest: unknown"
        )


def fit_unknown(predictions: Predictions, is_far: Tensor, target_precision: float) -> UnknownRule:
    """Return the rule of most answers whose share of right ones on these N validation images reaches the target.

    The share itself reaches it, not the lower end of its interval: to prove 98 % takes 190 right answers in a row.

    Args:
        predictions: with the temperature that confidences will have.
        is_far: (N,) bool: these images get no answer, whatever the confidence.
        target_precision: 0 to 1.
    """
    near = ~is_far
    confidence, order = predictions.confidence[near].sort(descending=True, stable=True)
    right = (predictions.predicted == predictions.labels)[near][order]
    precision = right.double().cumsum(0) / torch.arange(1, len(right) + 1)
    # An answer may be the last one given only if the next is less confident: equals are answered together.
    next_confidence = torch.cat([confidence[1:], confidence.new_full((1,), -1.0)])
    candidates = ((precision >= target_precision) & (confidence > next_confidence)).nonzero().flatten().tolist()
    number = candidates[-1] + 1 if candidates else 0
    threshold = 0.0
    if not number:
        threshold = NOTHING_IS
    elif number < len(confidence):  # half-way to the next, so that rounding flips none of these
        threshold = float(confidence[number - 1] + confidence[number]) / 2
    return _rule(target_precision, threshold, len(near), number, int(right[:number].sum()))


def on_other_images(rule: UnknownRule, predictions: Predictions, is_far: Tensor) -> UnknownRule:
    """Return `rule` with the coverage and precision it has on these images: the test split, say."""
    given = ~rule.is_unknown(predictions.confidence, is_far)
    num_right = int((predictions.predicted == predictions.labels)[given].sum())
    return _rule(rule.target_precision, rule.min_confidence, len(given), int(given.sum()), num_right)


def differs_from_training(num_far: int, num_images: int) -> bool:
    """Return whether so many far images are no chance: surely more than twice the usual share.

    Measured on clothing: its own test images do not (2 % far; of any one class at most 8 %), nor in grey (8 %), nor at
    0.4 or 1.6 times the brightness (0, 2 %). Cut to their middle (22 %), blurred (84 %), or drawings (100 %) do.
    """
    return wilson_interval(num_far, num_images, _DRIFT_Z)[0] > 2 * (1 - USUAL_SHARE)


def _rule(
    target_precision: float, min_confidence: float, num_images: int, num_given: int, num_right: int
) -> UnknownRule:
    return UnknownRule(
        target_precision,
        min_confidence,
        coverage=num_given / num_images if num_images else 0.0,
        precision=num_right / num_given if num_given else None,
        precision_ci95=wilson_interval(num_right, num_given),
    )
