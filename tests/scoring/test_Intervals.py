"""Intervals against published values, and against how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from MLPipeline.scoring.Intervals import (
    balanced_accuracy_interval,
    macro_f1_interval,
    mcnemar_p_value,
    mean_interval,
    paired_interval,
    wilson_interval,
)


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


@pytest.mark.parametrize("number", [2, 3, 5, 30, 500])
def test_the_interval_of_a_mean_equals_that_of_scipy(number: int) -> None:
    values = np.random.default_rng(number).normal(0.3, 2, number)
    wanted = ttest_1samp(values, 0).confidence_interval(0.95)
    middle = values.mean()
    found = mean_interval(values)
    assert found[1] - middle == pytest.approx(wanted.high - middle, rel=0.2 if number == 2 else 0.01)
    assert found[0] + found[1] == pytest.approx(2 * middle)
    assert mean_interval(values[:1]) == (-math.inf, math.inf)


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
    assert 0.93 < np.mean(held) < 0.98  # 0.947 to 0.963 over five seeds


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (40, 75), (2000, 2100)])
def test_mcnemar_is_the_binomial_test_of_the_flips(counts: tuple[int, int]) -> None:
    expected = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar_p_value(*counts) == pytest.approx(expected, rel=1e-6)


SPREAD = np.array([[0.7, 0.3, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])
CASES = {  # rates of each row, images of each class
    "8 images": (np.array([[0.7, 0.3], [0.4, 0.6]]), [4, 4]),
    "8 images, hardly a mistake": (np.array([[0.95, 0.05], [0.05, 0.95]]), [4, 4]),
    "unequal classes": (np.array([[0.9, 0.1], [0.4, 0.6]]), [80, 20]),
    "three classes": (SPREAD, [10, 20, 10]),
    "many small classes": (0.9 * np.eye(50) + 0.1 / 49 * (1 - np.eye(50)), [5] * 50),
    "many images": (0.8 * np.eye(10) + 0.2 / 9 * (1 - np.eye(10)), [100] * 10),
}


def drawn(name: str, number: int) -> list[np.ndarray]:
    rates, supports = CASES[name]
    generator = np.random.default_rng(0)
    rows = [generator.multinomial(n, row, number) for n, row in zip(supports, rates, strict=True)]
    return list(np.stack(rows, axis=1))


def mean_recall(confusion: np.ndarray) -> float:
    return float(np.mean([row[k] / row.sum() for k, row in enumerate(confusion) if row.sum()]))


def mean_f1(confusion: np.ndarray) -> float:
    totals = confusion.sum(0) + confusion.sum(1)
    return float(np.mean([2 * row[k] / totals[k] for k, row in enumerate(confusion) if row.sum()]))


FIGURES = pytest.mark.parametrize(
    ("interval", "figure"), [(balanced_accuracy_interval, mean_recall), (macro_f1_interval, mean_f1)]
)


@FIGURES
@pytest.mark.parametrize("name", CASES)
def test_intervals_over_classes_hold_the_truth_in_95_of_100_cases(name: str, interval, figure) -> None:
    rates, supports = CASES[name]
    truth = figure(rates * np.array(supports)[:, None])
    held = [low <= truth <= high for low, high in map(interval, drawn(name, 1500))]
    assert 0.915 < np.mean(held) < 0.985  # 0.926 to 0.973 over five seeds


@FIGURES
def test_with_many_images_the_intervals_are_as_wide_as_the_figure_varies(interval, figure) -> None:
    confusions = drawn("many images", 1500)
    low, high = interval(confusions[0])
    assert high - low == pytest.approx(2 * 1.96 * np.std([figure(each) for each in confusions]), rel=0.1)


@FIGURES
@pytest.mark.parametrize(
    "confusion",
    [
        np.array([[4, 0, 0], [4, 0, 0], [0, 0, 0]]),  # 8 images: a bootstrap gives [0.5, 0.5] for the mean recall
        np.array([[4, 0, 0], [0, 0, 4], [0, 0, 0]]),
        np.array([[8, 0], [0, 0]]),
        np.array([[0, 1], [1, 0]]),
        np.array([[1]]),
        3 * np.eye(4, dtype=int),
    ],
)
def test_a_handful_of_images_never_gives_an_interval_without_width(confusion: np.ndarray, interval, figure) -> None:
    low, high = interval(confusion)
    assert 0 <= low <= figure(confusion) + 1e-12 and figure(confusion) - 1e-12 <= high <= 1
    assert high - low > 0.2


def test_images_of_one_class_give_wilsons_interval_of_the_recall() -> None:
    assert balanced_accuracy_interval(np.array([[15, 5], [0, 0]])) == pytest.approx(wilson_interval(15, 20))


@FIGURES
def test_without_images_there_is_no_interval(interval, figure) -> None:
    assert interval(np.zeros((3, 3), int)) is None
