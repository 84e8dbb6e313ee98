"""Intervals against published values, and against how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from MLPipeline.scoring.Intervals import bootstrap_intervals, mcnemar_p_value, paired_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "interval"),
    [  # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval_equals_the_published_values(successes: int, n: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(successes, n) == pytest.approx(interval, abs=1e-4)


def test_paired_interval_equals_the_published_value_and_turns_with_the_order() -> None:
    """Newcombe (1998), method 10, for 36, 12, 2 and 0 images; he subtracts the other way round."""
    low, high = paired_interval(36, 12, 2, 0)
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    assert paired_interval(36, 2, 12, 0) == pytest.approx((-high, -low))


def test_paired_interval_allows_for_counts_being_whole_numbers() -> None:
    """20, 12, 2 and 16 images agree in phi = 0.45; corrected by n/2, 0.41, which makes the interval wider."""
    first, second = (wilson_interval(number, 50) for number in (32, 22))
    phi = (20 * 16 - 12 * 2 - 25) / math.sqrt(32 * 18 * 22 * 28)
    below, above = 0.44 - second[0], first[1] - 0.64
    low = -0.2 - math.sqrt(below**2 - 2 * phi * below * above + above**2)
    assert paired_interval(20, 12, 2, 16)[0] == pytest.approx(low, abs=1e-9) == pytest.approx(-0.3292, abs=1e-4)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 0, 1), (3, 0, 2, 0)])
def test_paired_interval_of_few_images_is_wide_and_holds_the_difference(counts: tuple[int, int, int, int]) -> None:
    low, high = paired_interval(*counts)
    n = sum(counts) or 1
    assert -1 <= low <= (counts[2] - counts[1]) / n <= high <= 1
    assert high - low > 0.4


def test_paired_interval_is_narrower_than_that_of_separate_samples() -> None:
    """Two models that mostly agree: 5 points apart on 400 images is beyond chance where each image is its own judge."""
    low, high = paired_interval(300, 10, 30, 60)
    separate = 1.96 * math.sqrt(0.775 * 0.225 / 400 + 0.825 * 0.175 / 400)
    assert 0 < low < 0.05 < high and (high - low) / 2 < 0.7 * separate


def test_paired_interval_holds_the_truth_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(0)
    shares = np.array([0.75, 0.04, 0.08, 0.13])
    drawn = generator.multinomial(150, shares, 2000)
    held = [low <= 0.04 <= high for low, high in (paired_interval(*counts) for counts in drawn.tolist())]
    assert 0.94 < np.mean(held) < 0.98


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 75), (2000, 2100)])
def test_mcnemar_is_the_binomial_test_of_the_flips(counts: tuple[int, int]) -> None:
    expected = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar_p_value(*counts) == pytest.approx(expected, rel=1e-6)


def resampled_in_words(confusion: np.ndarray) -> np.ndarray:
    """Balanced accuracy and macro-F1 (2, R) of R resamples, drawn image by image."""
    generator = np.random.default_rng(1)
    images = np.repeat(np.arange(confusion.size), confusion.ravel())
    figures = []
    for _ in range(2000):
        drawn = np.bincount(generator.choice(images, len(images)), minlength=confusion.size).reshape(confusion.shape)
        hits, true, predicted = drawn.diagonal(), drawn.sum(1), drawn.sum(0)
        recalls = [hit / n for hit, n in zip(hits, true, strict=True) if n]
        f1 = [2 * hit / (n + m) for hit, n, m in zip(hits, true, predicted, strict=True) if n + m]
        figures.append((np.mean(recalls), np.mean(f1)))
    return np.array(figures).T


def test_bootstrap_equals_resampling_the_images() -> None:
    confusion = np.array([[30, 5, 0, 1], [4, 20, 2, 0], [0, 0, 0, 0], [1, 1, 0, 4]])
    ours = bootstrap_intervals(confusion)
    for name, values in zip(("balanced_accuracy", "macro_f1"), resampled_in_words(confusion), strict=True):
        assert ours[name] == pytest.approx(np.percentile(values, (2.5, 97.5)).tolist(), abs=0.02)
    assert bootstrap_intervals(confusion) == ours  # no dice


@pytest.mark.parametrize("confusion", [np.zeros((3, 3), int), 7 * np.eye(3, dtype=int), np.array([[4]])])
def test_where_resampling_tells_nothing_there_is_no_interval(confusion: np.ndarray) -> None:
    assert bootstrap_intervals(confusion) == {"balanced_accuracy": None, "macro_f1": None}


def test_many_classes_are_drawn_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    confusion = np.diag(np.arange(60)) + np.eye(60, k=1, dtype=int)
    whole = bootstrap_intervals(confusion)
    monkeypatch.setattr("MLPipeline.scoring.Intervals._CELLS_AT_ONCE", 1000)
    parts = bootstrap_intervals(confusion)
    assert parts == whole
