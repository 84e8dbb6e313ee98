"""How accurate the classifier is on pictures drawn at random, and how many more labels the next point takes.

The heads fitted on the first quarter, half and all of the labels, in the order in which they were given, are scored on
the same random sample, and a power law is fitted to their errors (see `audit/LearningCurve`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from MLPipeline.audit.LearningCurve import GROWTH, grown_error
from MLPipeline.scoring.Intervals import wilson_interval

SHARES = np.array([1 / 4, 1 / 2, 1])
_POINT = 0.01
_MIN_SAMPLE, MIN_LABELS = 30, 40  # with fewer, a forecast is hardly better than a guess
_MAX_GROWTH = 3  # beyond three times as many labels, nothing can be said


@dataclass(frozen=True)
class Accuracy:
    """The share of a random sample that is classified correctly, with its 95 % interval (Wilson)."""

    num_correct: int
    num_tested: int

    @property
    def share(self) -> float:
        """The accuracy, 0 to 1; NaN without a sample."""
        return self.num_correct / self.num_tested if self.num_tested else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy."""
        return wilson_interval(self.num_correct, self.num_tested)


def labels_for_next_point(errors: np.ndarray, num_labels: int, num_tested: int) -> int | None:
    """Return about how many more labels raise the accuracy by one percentage point; None if that cannot be told.

    Args:
        errors: (3,) of the heads fitted on the SHARES of the labels, 0 to 1.
        num_labels: how many labels the last head was fitted on.
        num_tested: the number of pictures of the random sample.
    """
    now = float(errors[-1])
    if num_tested < _MIN_SAMPLE or num_labels < MIN_LABELS or now <= _POINT or errors[0] <= now:
        return None
    ratio = float(grown_error(SHARES, errors)) / now  # with GROWTH times as many labels
    if ratio >= 1:
        return None
    growth = GROWTH ** (math.log(1 - _POINT / now) / math.log(ratio))
    return _rounded_up((growth - 1) * num_labels) if growth <= _MAX_GROWTH else None


def _rounded_up(number: float) -> int:
    """Return a number that is not below `number` and does not look more exact than it is: 7, 40, 230, 1500."""
    step = 1 if number <= 10 else 5 if number <= 100 else 10 ** (math.floor(math.log10(number)) - 1)
    return max(1, math.ceil(number / step) * step)
