"""Which head a training gets: as stated, by gradient descent where its settings are stated, else the model's own."""

from __future__ import annotations

from typing import Any

import pytest

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model
from MLPipeline.Recipes import RECIPES, recipe
from MLPipeline.training.Phases import plan, resolve
from tests.support.train_cases import CPU


def head_of(model: str, **stated: Any) -> str:
    return resolve(Config(model=model, **stated), find_model(model)).head


@pytest.mark.parametrize(
    ("model", "head"), [("efficientnet_lite0", "auto"), ("resnet18", "auto"), ("resnet50", "linear"), ("cnn", "linear")]
)
def test_every_model_has_its_own(model: str, head: str) -> None:
    assert head_of(model) == head


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_trained_by_gradient_descent(name: str) -> None:
    stated = recipe(name, {})
    assert head_of(stated.pop("model"), **stated) == "linear"


@pytest.mark.parametrize(
    "stated",
    [
        {"epochs": 10},  # the usual value, but stated
        {"batch_size": 32},
        {"optimizer": "sgd"},
        {"lr": 0.01},
        {"schedule": "cosine"},
        {"weight_decay": 0.1},
        {"ema": 0.9},
        {"swa": 0.5},
        {"clip_norm": 1.0},
        {"patience": 3},
        {"hidden": 16},
        {"dropout": 0.5},
        {"find_lr": True},
        {"freeze": "none"},
        {"freeze": "stage3"},
        {"unfreeze_after": 2},
        {"time": 5.0},
    ],
    ids=str,
)
def test_what_only_gradient_descent_has_asks_for_it(stated: dict[str, Any]) -> None:
    assert head_of("efficientnet_lite0", **stated) == "linear"


@pytest.mark.parametrize(
    "stated", [{"balance": "loss"}, {"label_smoothing": 0.1}, {"augment": "hflip"}, {"seed": 1}], ids=str
)
def test_other_settings_leave_the_choice_alone(stated: dict[str, Any]) -> None:
    assert head_of("efficientnet_lite0", **stated) == "auto"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"lr": 0.1}, "--lr 0.1: --head ridge is not trained by gradient descent"),
        ({"hidden": 8}, "--hidden 8: --head ridge is a single linear layer"),
        ({"hidden": 8, "unfreeze_after": 2}, "--hidden 8: --head ridge is a single linear layer"),
        ({"freeze": "none"}, "--head ridge: is fitted on a frozen backbone"),
        ({"find_lr": True}, "--find-lr: --head ridge is not trained"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_stated_head_refuses_what_it_has_no_use_for(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        head_of("efficientnet_lite0", head="ridge", **stated)


@pytest.mark.parametrize("head", ["auto", "linear", "logistic"])
def test_the_stored_settings_repeat_the_run(head: str) -> None:
    first = resolve(Config(model="efficientnet_lite0", head=head), find_model("efficientnet_lite0"))
    assert resolve(first, find_model("efficientnet_lite0")) == first


def test_a_head_that_is_solved_is_one_epoch_and_fine_tuning_keeps_its_own() -> None:
    spec = find_model("efficientnet_lite0")
    (alone,) = plan(resolve(Config(model="efficientnet_lite0"), spec), spec)
    assert (alone.config.epochs, alone.config.head) == (1, "auto")
    first, then = plan(resolve(Config(model="efficientnet_lite0", unfreeze_after=3, head="ridge"), spec), spec)
    assert (first.config.epochs, first.config.head, first.config.freeze) == (1, "ridge", "backbone")
    assert (then.first_epoch, then.config.epochs, then.config.head) == (1, 11, "linear")  # ten epochs, as after 3 of 13


def test_a_model_whose_head_has_several_layers_is_trained_by_gradient_descent() -> None:
    from MLPipeline.steps.Prepare import build

    small = {"image_size": 32, "weights": "none", "freeze": "backbone"}
    _, config, _ = build(Config(model="squeezenet1_1", **small), 3, CPU)
    assert config.head == "linear"
    with pytest.raises(UsageError, match="--head ridge: with --model squeezenet1_1 the head has several layers"):
        build(Config(model="squeezenet1_1", head="ridge", **small), 3, CPU)


def test_a_model_without_weights_is_trained_whole() -> None:
    from MLPipeline.steps.Prepare import build

    model, config, _ = build(Config(model="efficientnet_lite0", weights="none", image_size=32), 3, CPU)
    assert isinstance(model, Classifier) and (config.head, config.freeze) == ("linear", "none")
    with pytest.raises(UsageError, match="all layers are trained, from random weights"):
        build(Config(model="efficientnet_lite0", weights="none", image_size=32, head="auto"), 3, CPU)
