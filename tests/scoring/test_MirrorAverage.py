"""Averaging over mirror images: what counts as better, as worse, and as neither."""

from __future__ import annotations

import pytest
import torch

from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.MirrorAverage import MirrorEffect, averaged, mirror_effect
from MLPipeline.scoring.Predictions import Predictions


def effect(num_images: int, noise: float, mirrored_sign: float) -> MirrorEffect:
    """Of noisy logits whose noise is another in the mirror image; a negative sign exchanges the two classes."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(num_images) % 2
    true = 2.0 * torch.eye(2)[labels]
    logits, mirrored = (true * sign + noise * torch.randn(num_images, 2, generator=draw) for sign in (1, mirrored_sign))
    alone, both = Predictions(logits, labels), Predictions(averaged(logits, mirrored), labels)
    return mirror_effect(*(each.scaled(fit_temperature(each)) for each in (alone, both)))


def test_independent_noise_is_averaged_out() -> None:
    found = effect(400, 2.0, 1)
    assert found.is_better and not found.is_worse
    assert found.tta_accuracy > found.accuracy + 0.03 and found.tta_loss < found.loss - 0.05
    low, high = found.loss_difference_ci95
    assert low < found.tta_loss - found.loss < high < 0
    assert found.difference_ci95[0] < found.tta_accuracy - found.accuracy < found.difference_ci95[1]


def test_classes_that_mirroring_exchanges_are_worse() -> None:
    found = effect(40, 0.5, -1)
    assert found.is_worse and not found.is_better


def test_a_few_images_prove_nothing() -> None:
    found = effect(6, 2.0, 1)
    assert not found.is_better and not found.is_worse
    single = effect(1, 2.0, 1)
    assert not single.is_better and not single.is_worse


def test_a_lower_loss_with_fewer_right_answers_is_not_better() -> None:
    found = MirrorEffect(100, 0.9, 0.89, (-0.05, 0.03), 0.4, 0.3, (-0.2, -0.05))
    assert not found.is_better
    assert found.to_text() == (
        "validation accuracy 89.0 % (-1.0 points, 95 % interval -5.0 to +3.0), loss 0.3000, not 0.4000"
    )
    assert found.to_plain()["difference_ci95"] == [-0.05, 0.03] and found.to_plain()["is_better"] is False


def test_logits_are_averaged() -> None:
    assert averaged(torch.tensor([[1.0, 2]]), torch.tensor([[3.0, 0]])).tolist() == [[2.0, 1.0]]
    assert effect(10, 1.0, 1).num_images == pytest.approx(10)
