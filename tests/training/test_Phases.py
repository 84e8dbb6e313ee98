"""What is trained when: the plan, what it refuses, what fits into the time, and that measuring leaves no trace."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from MLPipeline.Classifier import ModelSpec
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model
from MLPipeline.steps import FitPhases
from MLPipeline.steps.FitPhases import seconds_per_epoch
from MLPipeline.training.Phases import FINE_TUNE, Phase, fit_into, plan, resolve
from MLPipeline.training.TrainState import TrainState
from tests.support.resume_cases import content_of, differences
from tests.support.train_cases import CPU, batches, figures, images, network, no_points, run, settings

DEFAULTS = {"image_size": 8, "batch_size": 4, "epochs": 10, "optimizer": "adam", "lr": 0.1, "freeze": "backbone"}


def spec(**fine_tune: Any) -> ModelSpec:
    return ModelSpec(lambda num_classes, image_size: network(), "made up", DEFAULTS, fine_tune)


def test_one_phase_with_the_models_own_settings() -> None:
    config = resolve(Config(lr=0.5), spec())
    assert (config.lr, config.epochs, config.freeze, config.schedule, config.weight_decay) == (
        0.5,
        10,
        "backbone",
        "constant",
        0,
    )
    assert plan(config, spec()) == [Phase(config)]


def test_two_phases_the_head_with_the_models_settings_and_all_with_those_of_fine_tuning() -> None:
    config = resolve(Config(unfreeze_after=2, lr=0.5, ema=0.9, patience=4, seed=7), spec(layer_decay=0.7))
    head, whole = plan(config, spec(layer_decay=0.7))
    assert {name: getattr(head.config, name) for name in DEFAULTS} == DEFAULTS | {"epochs": 2}
    assert (head.config.ema, head.config.augment, head.config.layer_decay, head.first_epoch) == (0, "none", 1, 0)
    stated = {"lr": 0.5, "layer_decay": 0.7, "ema": 0.9, "image_size": 8}
    assert {name: getattr(whole.config, name) for name in (FINE_TUNE | stated)} == FINE_TUNE | stated
    assert whole.first_epoch == 2 and whole.config == config
    assert head.config.seed == whole.config.seed == 7 and head.config.patience == whole.config.patience == 4


def test_the_image_size_of_the_command_holds_for_both_phases() -> None:
    head, whole = plan(resolve(Config(unfreeze_after=2, image_size=16), spec()), spec())
    assert head.config.image_size == whole.config.image_size == 16


@pytest.mark.parametrize("number", [13, 14, 100])
def test_all_layers_need_an_epoch_of_their_own(number: int) -> None:
    with pytest.raises(
        UsageError, match=rf"--unfreeze-after {number}: not before the last of 13 epochs. Give more --ep"
    ):
        resolve(Config(unfreeze_after=number), spec())
    assert len(plan(resolve(Config(unfreeze_after=7), spec()), spec())) == 2


def test_a_frozen_backbone_leaves_nothing_to_unfreeze() -> None:
    with pytest.raises(UsageError, match="--freeze backbone: leaves nothing for --unfreeze-after to train"):
        resolve(Config(unfreeze_after=2, freeze="backbone"), spec())
    assert resolve(Config(unfreeze_after=2, freeze="stem"), spec()).freeze == "stem"


@pytest.mark.parametrize(
    ("first_epoch", "seconds_left", "expected"),
    [(3, 100.0, 10), (3, 30.0, 6), (3, 29.9, 5), (3, 5.0, 3), (3, -50.0, 3), (0, 25.0, 2), (0, 5.0, 1), (0, -9.0, 1)],
)
def test_as_many_epochs_as_fit(first_epoch: int, seconds_left: float, expected: int) -> None:
    """At 10 s an epoch; of a first phase one at least, for there is no model yet."""
    phase = Phase(settings(epochs=10), first_epoch)
    assert fit_into(phase, seconds_left, 10.0) == replace(phase, config=settings(epochs=expected))


def test_an_epoch_of_no_time_fits_often() -> None:
    assert fit_into(Phase(settings(epochs=10)), 1.0, 0.0).config.epochs == 10


def of_images(number: int = 40, augment: Any = None) -> Any:
    return batches(*images(number), 4, seed=0, augment=augment)


@pytest.mark.parametrize("stated", [{}, {"ema": 0.9, "schedule": "onecycle", "weight_decay": 0.1}], ids=str)
def test_measuring_leaves_model_threads_and_training_as_they_were(stated: dict[str, Any]) -> None:
    config, data = settings(epochs=2, batch_size=4, **stated), of_images()
    histories, ends = [], []
    for is_measured in (False, True):
        model = network()
        if is_measured:
            before = copy.deepcopy(model.state_dict())
            seconds_per_epoch(model, data, data, config, CPU)
            assert differences(before, model.state_dict()) == [] and model.training
            assert all(parameter.grad is None for parameter in model.parameters())
            assert torch.get_num_threads() == 1
        records, _ = run(model, data, data, config)
        histories.append(figures(records))
        ends.append(content_of(TrainState(model, config, CPU)))
    assert histories[0] == histories[1]
    assert differences(*ends) == []


def test_measuring_stops_after_a_few_steps() -> None:
    data, taken = of_images(4 * 50), []

    def counted(images: Tensor, targets: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        taken.append(len(images))
        return images, targets

    data.augment = counted
    seconds = seconds_per_epoch(network(), data, no_points(), settings(batch_size=4), CPU)
    assert len(taken) == FitPhases._PROBED_STEPS and seconds > 0


@pytest.mark.parametrize("num_images", [4, 9, 24])
def test_steps_are_measured_and_not_the_batches_that_are_scored(
    num_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few steps there are: each takes 10 s on this clock, each batch that is scored 0.1 s."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow(images: Tensor, targets: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        now[0] += 10.0
        return images, targets

    def quick(images: Tensor, targets: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        now[0] += 0.1
        return images, targets

    train, val = of_images(num_images, slow), of_images(8, quick)
    expected = 10.0 * (len(train) + len(val) / 3)  # scoring is taken to cost a third of training
    assert seconds_per_epoch(network(), train, val, settings(batch_size=4), CPU) == pytest.approx(expected)


def test_lite0_keeps_its_early_stages_and_trains_the_average_of_its_weights() -> None:
    """The setting the README's accuracies were measured with: whoever changes it has to measure anew."""
    lite0 = find_model("efficientnet_lite0")
    _, whole = plan(resolve(Config(model="efficientnet_lite0", unfreeze_after=3), lite0), lite0)
    fitted = whole.config
    assert (fitted.freeze, fitted.epochs, fitted.batch_size, fitted.optimizer, fitted.lr) == (
        "stage3",
        13,
        32,
        "adamw",
        1e-3,
    )
    assert (fitted.schedule, fitted.ema, fitted.label_smoothing, fitted.augment) == ("cosine", 0.99, 0.1, "hflip,crop")
    assert fitted.swa == 0.8  # of 10 epochs, the last 8 are averaged
    every = resolve(Config(model="efficientnet_lite0", unfreeze_after=3, freeze="none"), lite0)
    assert every.freeze == "none"
