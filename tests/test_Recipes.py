"""Recipes: every name stands for exactly its flags, and a flag beside it wins."""

from __future__ import annotations

import dataclasses

import pytest

from MLPipeline.commands.CommandLine import parse
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model
from MLPipeline.Phases import plan, resolve
from MLPipeline.Recipes import RECIPES


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
