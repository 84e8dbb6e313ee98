"""Recipes: every name stands for exactly its flags, and a flag beside it wins."""

from __future__ import annotations

import dataclasses

import pytest

from MLPipeline.commands.CommandLine import parse
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model
from MLPipeline.Recipes import RECIPES, flags_of
from MLPipeline.training.Phases import plan, resolve


def settings(*argv: str) -> Config:
    return parse(["--recipe", *argv])[1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_flags_written_out(name: str) -> None:
    flags = [word for key, value in RECIPES[name].items() for word in (f"--{key.replace('_', '-')}", str(value))]
    assert dataclasses.replace(settings(name), recipe=None) == parse(flags)[1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_run(name: str) -> None:
    config = settings(name)
    spec = find_model(config.model)
    phases = plan(resolve(config, spec), spec)
    assert phases[-1].config.epochs == config.epochs and phases[-1].config.image_size >= spec.min_image_size


def test_flags_win() -> None:
    config = settings("cifar10", "--optimizer", "adam", "--lr", "0.001", "--epochs", "3")
    assert (config.optimizer, config.lr, config.epochs, config.batch_size) == ("adam", 0.001, 3, 20)


@pytest.mark.parametrize(
    ("words", "lr", "is_told"),
    [
        (("cifar10",), 0.01, False),
        (("cifar10", "--optimizer", "adam"), 0.001, True),  # at SGD's rate it gets stuck
        (("cifar10-best", "--optimizer", "adamw"), 0.001, True),
        (("documents", "--optimizer", "adamw"), 0.001, False),
        (("documents", "--optimizer", "sgd"), 0.01, True),
        (("tenclass", "--optimizer", "sgd"), 0.01, True),
        (("cifar10", "--optimizer", "adam", "--lr", "0.02"), 0.02, False),
    ],
)
def test_an_optimizer_gets_a_rate_that_suits_it(
    words: tuple[str, ...], lr: float, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(*words)
    assert resolve(config, find_model(config.model)).lr == lr
    said = [record.getMessage() for record in caplog.records]
    assert [text.startswith(f"{' '.join(words[1:])}: used with --lr {lr:g}, ") for text in said] == [True] * is_told


def test_without_a_recipe_too() -> None:
    config = parse(["--model", "cnn", "--optimizer", "adam"])[1]
    assert resolve(config, find_model("cnn")).lr == 0.001


def test_a_recipe_says_what_it_stands_for() -> None:
    assert flags_of("documents") == (
        "--model resnet50 --image-size 200 --freeze backbone --optimizer adam --lr 0.001 --batch-size 8 --epochs 10"
    )


def test_a_misspelt_recipe_is_named() -> None:
    with pytest.raises(UsageError, match="--recipe cifar: no such recipe. Did you mean 'cifar10'"):
        settings("cifar")


def test_what_the_published_projects_did() -> None:
    documents, cards, cifar, ten = (settings(name) for name in ("documents", "cards", "cifar10", "tenclass"))
    assert (documents.model, documents.image_size, documents.batch_size, documents.epochs) == ("resnet50", 200, 8, 10)
    assert (documents.freeze, documents.optimizer) == ("backbone", "adam")
    assert (cards.model, cards.image_size, cards.freeze, cards.optimizer) == ("efficientnet_b0", 128, "none", "adam")
    assert (cards.lr, cifar.val_fraction, cifar.batch_size, cifar.image_size) == (0.001, 0.2, 20, 32)
    assert (ten.model, ten.image_size, ten.epochs, ten.augment) == ("resnet50", 224, 15, "rotate,hflip")
