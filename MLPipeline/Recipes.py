"""Named sets of flags: `--recipe cifar10` stands for the flags listed here; flags given beside it take precedence.

To add a recipe, add an entry.
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
    # Two convolutions on CIFAR-10. With `--optimizer adam` the learning rate is 0.001: at 0.01 it does not learn.
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
    # The same network with the best settings found.
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
    # Ten classes at 224 pixels: the head of a ResNet50, then all layers; the better of the two models is kept.
    "tenclass": {
        "model": "resnet50",
        "image_size": 224,
        "unfreeze_after": 10,
        "epochs": 15,
        "augment": "rotate,hflip",
    },
    # Any torchvision backbone, fine-tuned with strong augmentation.
    "augment": {
        "model": "resnet18",
        "image_size": 224,
        "unfreeze_after": 3,
        "epochs": 15,
        "augment": "rotate,translate,hflip,vflip,jitter,crop",
    },
}


def recipe(name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the recipe called `name` by their names in `Config`; those `stated` take precedence.

    The recipe's learning rate belongs to its optimizer: if another optimizer is stated, the rate is not set.

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
    """Return the flags of the recipe called `name`, as one would type them."""
    return " ".join(f"{flag_name(key)} {value}" for key, value in RECIPES[name].items())
