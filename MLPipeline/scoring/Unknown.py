"""Decides when an answer is withheld: for images unlike the training images, and for confidences below a threshold.

An image is far from the training images if the cosine distance of its features to the mean features of the nearest
class is larger than for 95 % of the validation images. Measured on photographs of clothing with EfficientNet-Lite0,
leaving each of ten classes out of training in turn, with the threshold for 95 % precision: of the images of the
left-out class, 40 % are withheld by confidence alone and 50 % by confidence and distance; of the known classes, 20 % in
both cases. The distance to the 5th nearest training image (arXiv:2204.06507) reached 46 %, the largest logit 40 %, and
relative Mahalanobis distances (arXiv:2106.09022) separated left-out from known classes worse than any of these.
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

USUAL_SHARE = 0.95  # the share of images like the training images that are near them
UNREACHABLE = 2.0  # a threshold above every confidence
_DRIFT_Z = 3.29  # one false alarm in 2,000


@dataclass(frozen=True, eq=False)
class FeatureCenters:
    """The mean features of the training images of each class, which new images are compared with."""

    centers: Tensor  # (C, D) float16: the mean features of each class, as unit vectors
    max_distance: float  # images with a larger distance are far from the training images; inf: too few images

    def is_far(self, distances: Tensor) -> Tensor:
        """Return a mask (B,) bool of the images that are far from the training images."""
        return ~(distances <= self.max_distance)  # NaN counts as far


def distances_to(centers: Tensor, features: Tensor) -> Tensor:
    """Return the cosine distance (B,) float32, 0 to 2, of `features` (B, D) to the nearest of the `centers` (C, D).

    Raises:
        DataError: the features and the centers are those of different networks.
    """
    if features.shape[1] != centers.shape[1]:
        raise DataError("model.pt: its training fingerprint belongs to another network", "Train the model again")
    return 1 - (normalize(features.float(), dim=1) @ centers.float().T).amax(dim=1)


def usual_distance(distances: Tensor) -> float:
    """Return the distance that 95 % of images like these do not exceed, from their `distances` (N,); inf if N < 19.

    This is the (N + 1) * 95 %-th smallest, so that a new image of the same kind exceeds it in 5 % of cases, for any N.
    Source: S. Bates et al., Testing for Outliers with Conformal p-values, arXiv:2104.08279.
    """
    place = math.ceil((len(distances) + 1) * USUAL_SHARE)
    return float(distances.sort().values[place - 1]) if place <= len(distances) else math.inf


@dataclass(frozen=True)
class UnknownRule:
    """Gives the answers for images near the training images with at least `min_confidence`, and withholds the others.

    Coverage and precision are measured on the validation images; the true precision on new images of the known classes
    can be anywhere in the interval.
    """

    target_precision: float
    min_confidence: float  # after temperature scaling; above 1, every answer is withheld
    coverage: float  # the share of images that get an answer
    precision: float | None  # the share of correct answers among them; None if there are none
    precision_ci95: tuple[float, float]

    def is_withheld(self, confidence: Tensor, is_far: Tensor) -> Tensor:
        """Return a mask (B,) bool of the images whose answer is withheld."""
        return is_far | ~(confidence >= self.min_confidence)  # also for a confidence of NaN

    def to_text(self, of: str = "images") -> str:
        """Return `answered 73.2 % of the images; 98.1 % of these answers are correct (95 % interval ...)`."""
        if self.precision is None:
            return (
                f"answered none of the {of}: no confidence threshold reaches the target precision of "
                f"{100 * self.target_precision:g} %"
            )
        low, high = (100 * bound for bound in self.precision_ci95)
        return (
            f"answered {100 * self.coverage:.1f} % of the {of}; {100 * self.precision:.1f} % of these answers are "
            f"correct (95 % interval {low:.1f} to {high:.1f} %, target {100 * self.target_precision:g} %)"
            f"{'; the others are withheld' if self.coverage < 1 else ''}"
        )


def fit_unknown(predictions: Predictions, is_far: Tensor, target_precision: float) -> UnknownRule:
    """Return the rule with the highest coverage that reaches the target precision on these N validation images.

    The precision itself has to reach the target, not the lower bound of its interval: for 98 %, that would require 190
    correct answers in a row.

    Args:
        predictions: scaled by the temperature that is used for new images.
        is_far: (N,) bool; answers for these images are withheld, whatever their confidence.
        target_precision: 0 to 1.
    """
    near = ~is_far
    confidence, order = predictions.confidence[near].sort(descending=True, stable=True)
    right = (predictions.predicted == predictions.labels)[near][order]
    precision = right.double().cumsum(0) / torch.arange(1, len(right) + 1)
    # The threshold lies between two distinct confidences, so images of equal confidence are treated in the same way.
    next_confidence = torch.cat([confidence[1:], confidence.new_full((1,), -1.0)])
    candidates = ((precision >= target_precision) & (confidence > next_confidence)).nonzero().flatten().tolist()
    number = candidates[-1] + 1 if candidates else 0
    threshold = 0.0
    if not number:
        threshold = UNREACHABLE
    elif number < len(confidence):  # halfway to the next confidence, so that rounding errors change no answer
        threshold = float(confidence[number - 1] + confidence[number]) / 2
    return _rule(target_precision, threshold, len(near), number, int(right[:number].sum()))


def on_other_images(rule: UnknownRule, predictions: Predictions, is_far: Tensor) -> UnknownRule:
    """Return `rule` with its coverage and precision on these images, for example the test split."""
    is_answered = ~rule.is_withheld(predictions.confidence, is_far)
    num_right = int((predictions.predicted == predictions.labels)[is_answered].sum())
    num_answered = int(is_answered.sum())
    return _rule(rule.target_precision, rule.min_confidence, len(is_answered), num_answered, num_right)


def differs_from_training(num_far: int, num_images: int) -> bool:
    """Return whether the share of far images is significantly higher than twice the usual share.

    Measured on clothing. Not different: its own test images (2 % far; at most 8 % of any one class), in grey (8 %), at
    0.4 or 1.6 times the brightness (0 and 2 %). Different: cropped to the centre (22 %), blurred (84 %), drawings
    (100 %).
    """
    return wilson_interval(num_far, num_images, _DRIFT_Z)[0] > 2 * (1 - USUAL_SHARE)


def _rule(
    target_precision: float, min_confidence: float, num_images: int, num_answered: int, num_right: int
) -> UnknownRule:
    return UnknownRule(
        target_precision,
        min_confidence,
        coverage=num_answered / num_images if num_images else 0.0,
        precision=num_right / num_answered if num_answered else None,
        precision_ci95=wilson_interval(num_right, num_answered),
    )
