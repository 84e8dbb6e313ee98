"""Whole experiments by name: `--recipe cifar10` stands for the flags below it, and any flag beside it wins.

A new recipe is one entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from MLPipeline.Config import flag_name
from MLPipeline.Errors import UsageError, did_you_mean

RECIPES: Mapping[str, Mapping[str, Any]] = {
    # Driving licences, social security cards, others: a new head on a frozen ResNet50.
    "documents": {
        "model": "resnet50",
        "image_size": 200,
        "freeze": "backbone",
        "optimizer": "adam",
        "lr": 0.001,
        "batch_size": 8,
        "epochs": 10,
    },
    # 53 playing cards in train, valid and test folders: EfficientNet-B0 with every layer trained.
    "cards": {
        "model": "efficientnet_b0",
        "image_size": 128,
        "freeze": "none",
        "optimizer": "adam",
        "lr": 0.001,
        "batch_size": 32,
        "epochs": 5,
    },
    # Two convolutions on CIFAR-10. Its text allows Adam, too, which gets its own usual rate: at 0.01 it gets stuck.
    "cifar10": {
        "data": Path("cifar10"),
        "model": "cnn",
        "image_size": 32,
        "optimizer": "sgd",
        "lr": 0.01,
        "batch_size": 20,
        "epochs": 30,
        "val_fraction": 0.2,
    },
    # The same network, trained as well as it can be.
    "cifar10-best": {
        "data": Path("cifar10"),
        "model": "cnn",
        "image_size": 32,
        "optimizer": "sgd",
        "lr": 0.05,
        "batch_size": 128,
        "epochs": 60,
        "schedule": "onecycle",
        "weight_decay": 0.0005,
        "label_smoothing": 0.1,
        "ema": 0.999,
        "augment": "hflip,translate",
        "val_fraction": 0.2,
    },
    # Ten classes at 224 pixels: the head of a ResNet50 first, then all layers, and the better of the two is kept.
    "tenclass": {
        "model": "resnet50",
        "image_size": 224,
        "unfreeze_after": 10,
        "epochs": 15,
        "augment": "rotate,hflip",
    },
    # Any torchvision backbone, fine-tuned under strong augmentation.
    "augment": {
        "model": "resnet18",
        "image_size": 224,
        "unfreeze_after": 3,
        "epochs": 15,
        "augment": "rotate,translate,hflip,vflip,jitter,crop",
    },
}


def recipe(name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the recipe called `name` under those that are `stated`, by their names in `Config`.

    Its learning rate is for its optimizer: with another one stated, the rate is left open.

    Raises:
        UsageError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: no such recipe", did_you_mean(name, RECIPES))
    chosen = dict(RECIPES[name])
    if (stated.get("optimizer", chosen.get("optimizer")) == "sgd") != (chosen.get("optimizer") == "sgd"):
        chosen.pop("lr", None)
    return chosen | dict(stated)


def flags_of(name: str) -> str:
    """Return what the recipe called `name` stands for, as one would type it."""
    return " ".join(f"{flag_name(key)} {value}" for key, value in RECIPES[name].items())
