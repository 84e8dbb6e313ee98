"""The network that is exported: raw pixels in, calibrated probabilities out, and its description.

    images (B, S, S, 3) uint8 RGB --normalize--> backbone --> features (B, D) --head--> softmax(logits / temperature)

Resizing is not part of it: OpenCV's INTER_AREA, which training uses, has no equal among the operators of ONNX, and JPEG
files are reduced while they are decoded. The script beside the model does both.
B images of a batch, S side of the square input, C classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.export.OnnxGraph import FEATURES, INPUT, PixelNetwork
from MLPipeline.files.Json import dump_json

KEY = "classifier"
FORMAT = 1


class ExportedNetwork(PixelNetwork):
    """`(probabilities (B, C), features (B, D)[, distance (B,)])` of `images` (B, S, S, 3) uint8 RGB, all float32.

    `distance` is the cosine distance to the mean features of the nearest class, for models that store those.
    """

    centers: Tensor | None

    def __init__(self, model: Classifier, card: ModelCard) -> None:
        super().__init__(model.backbone, model.mean, model.std)
        self.head, self.temperature = model.head, float(card.temperature)
        self.register_buffer("centers", card.fingerprint.centers.float().T.contiguous() if card.fingerprint else None)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["probabilities", FEATURES, *(["distance"] if self.centers is not None else [])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs that the class describes."""
        features = self.features(images)
        probabilities = (self.head(features) / self.temperature).softmax(dim=1)
        if self.centers is None:
            return probabilities, features
        return probabilities, features, 1 - (normalize(features, dim=1) @ self.centers).amax(dim=1)


def example_input(card: ModelCard, number: int = 2) -> Tensor:
    """Return black images of the size that the network requires: (number, S, S, 3) uint8."""
    return torch.zeros(number, card.image_size, card.image_size, 3, dtype=torch.uint8)


def describe(network: ExportedNetwork, card: ModelCard, origin: Mapping[str, Any]) -> str:
    """Return the JSON that is stored in the exported file: everything that its user has to know.

    `origin` says where the model comes from: run, versions, digest.
    """
    limit = card.fingerprint.max_distance if card.fingerprint else math.inf
    rule = card.unknown
    about = {
        "format": FORMAT,
        "classes": list(card.classes),
        "image_size": card.image_size,
        "input": f"{INPUT}: (B, {card.image_size}, {card.image_size}, 3) uint8 RGB, resized but not normalised",
        "outputs": network.outputs,
        "fit": card.fit,
        "levels": None if card.levels is None else card.levels.to_plain(),
        "temperature": card.temperature,  # applied already
        "threshold": None if rule is None else {"min_confidence": rule.min_confidence, "to_text": rule.to_text()},
        "max_distance": limit if math.isfinite(limit) else None,  # JSON has no infinity
        "model": card.model,
        "initial_weights": dict(card.weights),
        "origin": dict(origin),
    }
    return dump_json(about)
