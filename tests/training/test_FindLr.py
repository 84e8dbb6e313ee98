"""FindLr: the suggested rate is one that learns, and the model is left as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from MLPipeline.Errors import DivergedError
from MLPipeline.report.FindLrPlot import find_lr_figure, plot_find_lr
from MLPipeline.training.FindLr import HIGHEST, LOWEST, NUM_STEPS, find_lr
from tests.support.train_cases import (
    CPU,
    FailingLinear,
    batches,
    copy_state,
    linear,
    points,
    run,
    same,
    settings,
    val_points,
    with_dropout,
)


def noisy_points(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rows, labels = points(120)
    return scale * (rows + torch.randn(rows.shape, generator=torch.Generator().manual_seed(3))), labels


def test_the_suggested_rate_learns_and_one_far_lower_does_not() -> None:
    train = batches(*noisy_points(), batch_size=8, seed=0)
    suggested = find_lr(linear(), train, settings(), CPU).suggested
    losses = [
        min(record.val_loss for record in run(linear(), train, val_points(), settings(lr=rate, epochs=3))[0])
        for rate in (suggested, suggested / 1000)
    ]
    assert losses[0] < 0.6 * losses[1]


def test_larger_features_ask_for_a_lower_rate() -> None:
    """Under plain gradient descent features ten times as large bear a rate a hundred times lower."""
    rates = [
        find_lr(linear(), batches(*noisy_points(scale), batch_size=8, seed=0), settings(optimizer="sgd"), CPU).suggested
        for scale in (1.0, 10.0)
    ]
    assert 10 < rates[0] / rates[1] < 1000


def test_the_rate_rises_evenly_until_the_loss_explodes() -> None:
    train = batches(*noisy_points(10.0), batch_size=8, seed=0)
    found = find_lr(linear(), train, settings(optimizer="sgd"), CPU)
    ratio = (HIGHEST / LOWEST) ** (1 / (NUM_STEPS - 1))
    assert found.rates[0] == LOWEST and found.rates[5] == pytest.approx(LOWEST * ratio**5)
    assert len(found.rates) == len(found.losses) < NUM_STEPS
    assert found.losses[-1] <= 2 * min(found.losses)


def test_model_and_result_do_not_depend_on_what_was_drawn_before() -> None:
    model, train = with_dropout(), batches(*noisy_points(), batch_size=8, seed=0)
    before = copy_state(model)
    first = find_lr(model, train, settings(), CPU)
    torch.rand(5)
    assert find_lr(model, train, settings(), CPU) == first
    assert same(copy_state(model), before)


def test_the_picture_marks_the_suggestion(tmp_path: Path) -> None:
    found = find_lr(linear(), batches(*noisy_points(), batch_size=8, seed=0), settings(), CPU)
    figure = find_lr_figure(found.rates, found.losses, found.suggested)
    curve, mark = figure.axes[0].lines
    assert list(curve.get_ydata()) == found.losses and mark.get_xdata()[0] == found.suggested
    plot_find_lr(found.rates, found.losses, found.suggested, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 5_000


def test_a_loss_that_is_no_number_from_the_start_is_told() -> None:
    with pytest.raises(DivergedError, match="1e-06"):
        find_lr(FailingLinear(1, math.nan), batches(*noisy_points(), batch_size=8, seed=0), settings(), CPU)
