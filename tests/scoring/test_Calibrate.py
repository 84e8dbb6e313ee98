"""The temperature: found where it is known, never beyond reason, and never at the price of an answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from MLPipeline.scoring import Calibrate
from MLPipeline.scoring.Calibrate import COLDEST, HOTTEST, fit_temperature
from MLPipeline.scoring.Metrics import expected_calibration_error
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.scoring.PredictionsTable import predictions_table


def drawn(num_images: int, true_temperature: float, seed: int = 0) -> Predictions:
    """Return logits whose softmax at `true_temperature` is exactly how often each class is right."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_images, 5, generator=generator)
    labels = torch.multinomial((logits / true_temperature).softmax(1), 1, generator=generator)[:, 0]
    return Predictions(logits, labels)


@pytest.mark.parametrize("truth", [0.4, 1.0, 2.5])
def test_the_temperature_behind_the_labels_is_found(truth: float) -> None:
    predictions = drawn(4000, truth)
    temperature = fit_temperature(predictions)
    assert temperature == pytest.approx(truth, rel=0.12)  # 0.93 to 1.05 times the truth over eight seeds
    others = drawn(4000, truth, seed=1)  # images it was not fitted to
    before, after = expected_calibration_error(others), expected_calibration_error(others.scaled(temperature))
    assert before is not None and after is not None and after < 0.04  # at most 0.023 over eight seeds
    assert truth == 1.0 or before > 0.05


def plain_search(predictions: Predictions) -> tuple[float, int]:
    """Return the temperature by a golden-section search that evaluates both points of every step, and their number."""
    low, high, number = math.log(COLDEST), math.log(HOTTEST), 0
    golden = (math.sqrt(5) - 1) / 2

    def cost(value: float) -> float:
        return float(predictions.scaled(math.exp(value)).losses.sum()) + value**2 / 2

    while high - low > 1e-5:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if cost(left) <= cost(right) else (left, high)
        number += 2
    return round(math.exp((low + high) / 2), 4), number


@given(st.integers(1, 40), st.integers(2, 5), st.floats(-2, 2), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_result_is_that_of_the_plain_search(num_images: int, num_classes: int, exponent: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10**exponent * torch.randn(num_images, num_classes, generator=generator)
    predictions = Predictions(logits, torch.randint(0, num_classes, (num_images,), generator=generator))
    assert fit_temperature(predictions) == plain_search(predictions)[0]


def test_no_point_is_evaluated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    points = []

    def counted(logits: Tensor, dim: int) -> Tensor:
        points.append(float(logits.abs().max()))
        return logits.log_softmax(dim)

    monkeypatch.setattr(Calibrate, "log_softmax", counted)
    predictions = drawn(100, 2.0)
    fit_temperature(predictions)
    assert len(points) == len(set(points)) == plain_search(predictions)[1] // 2 + 2


def test_no_temperature_near_it_is_better() -> None:
    predictions = drawn(300, 2.0)
    temperature = fit_temperature(predictions)

    def cost(value: float) -> float:
        return float(predictions.scaled(value).losses.sum()) + math.log(value) ** 2 / 2

    assert all(cost(temperature) < cost(factor * temperature) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_a_few_images_all_right_do_not_make_it_certain_of_everything() -> None:
    logits = 4 * torch.eye(3)
    assert fit_temperature(Predictions(logits, torch.arange(3))) > 0.6
    assert fit_temperature(Predictions(logits.repeat(200, 1), torch.arange(3).repeat(200))) < 0.5


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(0, 3),
        torch.full((4, 3), torch.nan),
        torch.tensor([[torch.inf, 0, 0]]).repeat(4, 1),
        torch.randn(4, 1, generator=torch.Generator().manual_seed(0)),  # a single class: nothing to tell
    ],
)
def test_where_there_is_nothing_to_learn_it_is_1(logits: Tensor) -> None:
    assert fit_temperature(Predictions(logits, torch.zeros(len(logits), dtype=torch.int64))) == 1.0


@given(st.integers(1, 12), st.integers(1, 4), st.floats(-3, 30), st.integers(0, 2**32))
@settings(max_examples=60)
def test_it_is_a_number_within_bounds_and_changes_no_answer(
    num_images: int, num_classes: int, exponent: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10**exponent * torch.randn(num_images, num_classes, generator=generator)
    predictions = Predictions(logits, torch.randint(0, num_classes, (num_images,), generator=generator))
    temperature = fit_temperature(predictions)
    assert COLDEST - 1e-4 <= temperature <= HOTTEST + 1e-4
    assert torch.equal(predictions.scaled(temperature).predicted, predictions.predicted)
    assert fit_temperature(predictions) == temperature


def test_a_temperature_changes_confidences_and_losses_but_no_answer() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(9), 0.0]])
    plain, cooler = Predictions(logits, torch.tensor([0, 0])), Predictions(logits, torch.tensor([0, 0])).scaled(0.5)
    assert plain.confidence.tolist() == pytest.approx([3 / 4, 9 / 10])
    assert cooler.confidence.tolist() == pytest.approx([9 / 10, 81 / 82])
    assert cooler.losses.tolist() == pytest.approx([math.log(10), math.log(82 / 81)])
    assert torch.equal(cooler.predicted, plain.predicted)
    assert predictions_table(cooler, ["a", "b"], "test", ["x", "y"])["confidence"] == [0.9, 0.987805]
