"""How far a figure from few images can be trusted: intervals for one model, and for the difference between two.

C classes, K distinct cells of a confusion matrix.
"""

from __future__ import annotations

import math

import numpy as np

NUM_RESAMPLES = 1000
_CELLS_AT_ONCE = 2**22  # bounds the memory: 32 MB


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval that holds the true rate behind `successes` of `n`, with 95 % confidence at `z` = 1.96.

    Unlike the textbook p +- z*sqrt(p(1-p)/n), it stays within 0 to 1 and has a width at 0 and n successes.
    With `n` = 0 nothing is known: (0, 1).
    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    center = rate + z**2 / (2 * n)
    half_width = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    scale = 1 + z**2 / n
    return max(0.0, (center - half_width) / scale), min(1.0, (center + half_width) / scale)


def bootstrap_intervals(confusion: np.ndarray) -> dict[str, list[float] | None]:
    """Return the 95 % intervals of `balanced_accuracy` and `macro_f1`, from 1,000 resamples of the images.

    Drawing N images with replacement is drawing the counts `(C, C)` of their confusion matrix from a multinomial, so
    its cost does not grow with N. Always the same draws. None where all resamples agree: without a single mistake (or
    image) they know nothing of how far off the figure may be, and a width of 0 would be a false promise.
    Source: B. Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7 (1979); percentiles.
    """
    true, predicted = np.nonzero(confusion)
    counts = confusion[true, predicted]
    generator = np.random.default_rng(0)
    figures = [np.empty((2, 0))]
    at_once = max(1, _CELLS_AT_ONCE // max(1, len(counts)))
    for first in range(0, NUM_RESAMPLES if counts.size else 0, at_once):
        num_draws = min(at_once, NUM_RESAMPLES - first)
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), num_draws)
        figures.append(_macro_figures(drawn, true, predicted, len(confusion)))
    return {
        name: np.percentile(values, (2.5, 97.5)).tolist() if values.size and np.ptp(values) else None
        for name, values in zip(("balanced_accuracy", "macro_f1"), np.concatenate(figures, axis=1), strict=True)
    }


def _macro_figures(drawn: np.ndarray, true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return balanced accuracy and macro-F1 (2, R) of R draws (R, K) of the cells (`true`, `predicted`), both (K,)."""
    rows = num_classes * np.arange(len(drawn))[:, None]

    def per_class(classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        totals = np.bincount((rows + classes).ravel(), counts.ravel(), minlength=len(drawn) * num_classes)
        return totals.reshape(len(drawn), num_classes)

    supports, num_predicted = per_class(true, drawn), per_class(predicted, drawn)
    hits = per_class(true, drawn * (true == predicted))
    involved = supports + num_predicted
    recalls = np.divide(hits, supports, out=np.zeros_like(hits), where=supports > 0)
    f1 = np.divide(2 * hits, involved, out=np.zeros_like(hits), where=involved > 0)
    return np.stack([recalls.sum(1) / (supports > 0).sum(1), f1.sum(1) / (involved > 0).sum(1)])


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of (accuracy of the second - accuracy of the first) of two models on the same images.

    The arguments count the images that both classify rightly, only one of them does, and neither does. Unlike the
    interval of two separate samples it uses that most images are as easy, or as hard, for both.
    Source: R. G. Newcombe, Improved Confidence Intervals for the Difference Between Binomial Proportions Based on
    Paired Data, Statistics in Medicine 17 (1998), method 10.
    """
    n = both + only_first + only_second + neither
    if n == 0:
        return -1.0, 1.0
    first, second = (both + only_first) / n, (both + only_second) / n
    (low1, high1), (low2, high2) = (wilson_interval(both + only, n) for only in (only_first, only_second))
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    agreement = float(both * neither - only_first * only_second)
    if agreement > 0:
        agreement = max(agreement - n / 2, 0.0)  # continuity correction
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * correlation * down * up + up**2))

    difference = second - first
    return difference - distance(second - low2, high1 - first), difference + distance(high2 - second, first - low1)


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return how likely it is, for two equally good models, that the images only one gets right divide so unevenly.

    Exact and two-sided: the images that both or neither get right say nothing about which one is better.
    Source: Q. McNemar, Note on the Sampling Error of the Difference Between Correlated Proportions, Psychometrika 12
    (1947).
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    logarithms = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(each) for each in logarithms))
