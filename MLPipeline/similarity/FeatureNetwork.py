"""A frozen backbone that turns images into features, and the facts by which features of another one are recognised."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.Preprocessing import PLAIN, UNTRAINED, Preprocessing
from MLPipeline.Errors import UsageError
from MLPipeline.files.PlainValues import is_usable_text, is_whole
from MLPipeline.frozen.FrozenStages import frozen_hash
from MLPipeline.Models import build_model, find_model
from MLPipeline.Weights import load_weights

_MAX_IMAGE_SIZE = 4096
_NO_CLASSES = 1  # the head is not used


@dataclass(frozen=True)
class Origin:
    """Which network computed features; stored beside them."""

    network: str  # the name of the model
    run: str  # the model file of a run, by its absolute path; empty for a network with ImageNet weights
    weights: str  # hash of the backbone and of its normalization
    image_size: int  # side of the square input images, in pixels
    fit: str  # how images are fitted to the square

    def is_comparable_with(self, other: Origin) -> bool:
        """Return whether features of both origins may be compared: the same backbone saw images of the same size."""
        return (self.weights, self.image_size, self.fit) == (other.weights, other.image_size, other.fit)

    def to_text(self) -> str:
        """Return `efficientnet_lite0 with ImageNet weights, 200x200 pixels`, or the run in place of the weights."""
        start = f"of {self.run}" if self.run else "with ImageNet weights"
        fit = "" if self.fit == PLAIN.fit else f", --fit {self.fit}"
        return f"{self.network} {start}, {self.image_size}x{self.image_size} pixels{fit}"

    @classmethod
    def from_plain(cls, stored: Any) -> Origin:
        """Return the origin that `stored`, the content of a JSON file of anyone, describes.

        Raises:
            ValueError: it describes none.
        """
        names = [each.name for each in fields(cls)]
        if not isinstance(stored, dict) or set(stored) != set(names):
            raise ValueError("does not say which network computed the features")
        texts = [stored[name] for name in names if name != "image_size"]
        if not all(isinstance(text, str) and is_usable_text(text) for text in texts) or not is_whole(
            stored["image_size"], 1, _MAX_IMAGE_SIZE
        ):
            raise ValueError("does not say which network computed the features")
        return cls(**stored)


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen backbone on its device, with the preprocessing that it was trained with."""

    model: Classifier
    preprocessing: Preprocessing
    origin: Origin

    @classmethod
    def from_model(
        cls, model: Classifier, name: str, image_size: int, preprocessing: Preprocessing = PLAIN, run: str = ""
    ) -> FeatureNetwork:
        """Return the network for a model whose backbone is used as it is; it becomes frozen."""
        model.freeze("backbone")
        origin = Origin(name, run, frozen_hash(model), image_size, preprocessing.fit)
        return cls(model.eval(), preprocessing, origin)


def pretrained_network(name: str, device: torch.device) -> FeatureNetwork:
    """Return the model called `name` with its ImageNet weights, at its own image size.

    Images of more than 8 bits are shown to it at the range of their own values.

    Raises:
        UsageError: there is no such model, or it has no ImageNet weights.
        ResourceError: the weights are not available.
    """
    spec = find_model(name)
    if spec.pretrained is None:
        raise UsageError(f"--model {name}: has no ImageNet weights", "Use --model efficientnet_lite0, or --run RUN")
    image_size = int(str(spec.defaults["image_size"]))
    model = build_model(name, _NO_CLASSES, image_size)
    load_weights(model, spec, "imagenet")
    return FeatureNetwork.from_model(model.to(device), name, image_size, UNTRAINED)
