"""The rule for `unknown`, on made points: what is far, what is unsure, the most answers at the precision asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from MLPipeline.Errors import DataError
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.scoring.Unknown import (
    FeatureCenters,
    differs_from_training,
    distances_to,
    fit_unknown,
    on_other_images,
    usual_distance,
)


def answers(confidences: list[float], right: list[bool]) -> Predictions:
    """Return answers of two classes with these confidences."""
    high = torch.tensor(confidences, dtype=torch.float64)
    logits = torch.stack([(high / (1 - high)).log(), torch.zeros(len(high))], dim=1).float()
    return Predictions(logits, torch.tensor([0 if each else 1 for each in right]))


def nowhere(number: int) -> Tensor:
    return torch.zeros(number, dtype=torch.bool)


def test_the_distance_is_to_the_nearest_class_and_looks_at_directions_only() -> None:
    centers = torch.eye(3)[:2].half()
    features = torch.tensor([[5.0, 0, 0], [0, 0.1, 0], [1, 1, 0], [0, 0, 7], [-2, 0, 0]])
    assert distances_to(centers, features).tolist() == pytest.approx([0, 0, 1 - math.sqrt(0.5), 1, 1], abs=1e-3)
    with pytest.raises(DataError, match="another network"):
        distances_to(centers, torch.ones(1, 4))


@pytest.mark.parametrize(("number", "place"), [(19, 19), (20, 20), (39, 38), (100, 96), (341, 325)])
def test_one_image_in_twenty_of_the_same_kind_is_farther_than_usual(number: int, place: int) -> None:
    shuffled = torch.randperm(number, generator=torch.Generator().manual_seed(0)) + 1.0
    assert usual_distance(shuffled) == place
    assert (number + 1 - place) / (number + 1) <= 0.05  # the chance of a new one, exactly


def test_from_under_19_images_none_can_be_called_far() -> None:
    assert usual_distance(torch.arange(18.0)) == math.inf
    far = FeatureCenters(torch.eye(2), math.inf).is_far(torch.tensor([0.0, 2.0]))
    assert far.tolist() == [False, False]
    assert FeatureCenters(torch.eye(2), 0.4).is_far(torch.tensor([0.39, 0.41, math.nan])).tolist() == [
        False,
        True,
        True,
    ]


def test_most_answers_at_the_precision_asked() -> None:
    predictions = answers([0.99, 0.95, 0.9, 0.85, 0.8, 0.7], [True, True, False, True, True, False])
    rule = fit_unknown(predictions, nowhere(6), 0.8)  # 1/1 2/2 2/3 3/4 4/5 4/6
    assert rule.min_confidence == pytest.approx(0.75)
    assert (rule.coverage, rule.precision) == (pytest.approx(5 / 6), pytest.approx(0.8))
    assert rule.precision_ci95 == pytest.approx((0.3755, 0.9638), abs=1e-4)
    assert rule.is_withheld(predictions.confidence, nowhere(6)).tolist() == [False] * 5 + [True]
    strict = fit_unknown(predictions, nowhere(6), 0.9)
    assert (strict.coverage, strict.precision) == (pytest.approx(2 / 6), 1.0)


def test_all_are_answered_where_all_may_be() -> None:
    predictions = answers([0.9, 0.6], [True, True])
    assert fit_unknown(predictions, nowhere(2), 0.98).min_confidence == 0.0


def test_equally_sure_answers_are_given_together_or_not_at_all() -> None:
    predictions = answers([0.9, 0.8, 0.8], [True, True, False])
    rule = fit_unknown(predictions, nowhere(3), 0.95)
    assert rule.coverage == pytest.approx(1 / 3) and rule.min_confidence == pytest.approx(0.85)


def test_nothing_is_answered_where_nothing_reaches_the_precision() -> None:
    predictions = answers([0.99, 0.6], [False, True])
    rule = fit_unknown(predictions, nowhere(2), 0.9)
    assert rule.is_withheld(torch.tensor([1.0, 0.99]), nowhere(2)).all()
    assert (rule.coverage, rule.precision) == (0.0, None)
    assert "answered none" in rule.to_text()


def test_far_images_are_unknown_and_do_not_count() -> None:
    predictions = answers([0.99, 0.98, 0.9], [False, True, True])
    is_far = torch.tensor([True, False, False])
    rule = fit_unknown(predictions, is_far, 1.0)
    assert rule.is_withheld(predictions.confidence, is_far).tolist() == [True, False, False]
    assert (rule.coverage, rule.precision) == (pytest.approx(2 / 3), 1.0)


def test_a_confidence_that_is_no_number_is_withheld() -> None:
    rule = fit_unknown(answers([0.9], [True]), nowhere(1), 0.5)
    assert rule.is_withheld(torch.tensor([math.nan]), nowhere(1)).tolist() == [True]


def test_what_it_comes_to_on_other_images() -> None:
    rule = fit_unknown(answers([0.9, 0.8, 0.6], [True, True, False]), nowhere(3), 1.0)
    there = on_other_images(rule, answers([0.9, 0.75, 0.65, 0.99], [True, False, False, True]), nowhere(4))
    assert there.min_confidence == rule.min_confidence == pytest.approx(0.7)
    assert (there.coverage, there.precision) == (pytest.approx(3 / 4), pytest.approx(2 / 3))
    nothing = on_other_images(rule, answers([], []), nowhere(0))
    assert (nothing.coverage, nothing.precision) == (0.0, None)


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32))
@settings(max_examples=80)
def test_no_threshold_gives_more_answers_at_the_precision(number: int, target: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    confidence = np.round(generator.uniform(0.5, 1, number), 2).clip(0.5, 0.99)  # with ties
    right = generator.random(number) < confidence
    is_far = torch.from_numpy(generator.random(number) < 0.2)
    predictions = answers(confidence.tolist(), right.tolist())
    is_right = predictions.predicted == predictions.labels
    rule = fit_unknown(predictions, is_far, target)
    given_ = ~rule.is_withheld(predictions.confidence, is_far)
    assert rule.coverage == pytest.approx(float(given_.double().mean()))
    assert rule.precision is None or rule.precision >= target - 1e-12
    for threshold in predictions.confidence.unique().tolist():
        others = ~is_far & (predictions.confidence >= threshold)
        if others.any() and is_right[others].double().mean() >= target:
            assert int(others.sum()) <= int(given_.sum())


@pytest.mark.parametrize(
    ("num_far", "num_images", "differs"),
    [(0, 0, False), (1, 1, False), (2, 2, True), (2, 3, False), (5, 100, False), (12, 100, False), (25, 100, True)]
    + [(8, 12, True), (1, 12, False), (1100, 10_000, True), (1000, 10_000, False)],
)
def test_drift_is_told_when_it_is_no_chance(num_far: int, num_images: int, differs: bool) -> None:
    assert differs_from_training(num_far, num_images) is differs


def test_images_like_those_of_training_give_no_false_alarm() -> None:
    generator = np.random.default_rng(0)
    assert not any(differs_from_training(generator.binomial(n, 0.05), n) for n in range(3, 400) for _ in range(5))
