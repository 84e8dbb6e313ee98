"""A small classifier whose backbone is quantized, for tests of 8 bits: exporting takes seconds, so it is made once."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Models import build_model
from MLPipeline.quantized.Backbone import quantize_backbone

SIZE = 16


def pixels(number: int, seed: int = 0) -> np.ndarray:
    """Return images (number, SIZE, SIZE, 3) uint8 of blots."""
    draw = np.random.default_rng(seed)
    return np.kron(draw.integers(0, 256, (number, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)


@cache
def _made() -> Classifier:
    torch.manual_seed(0)
    model = build_model("cnn", 3, SIZE).eval()
    model.freeze("backbone")
    model.quantized = quantize_backbone(model.backbone, model.mean, model.std, pixels(16)).network
    return model


def small_int8() -> Classifier:
    """Return the `cnn` for three classes with random weights, frozen, with its backbone in 8 bits as well."""
    return copy.deepcopy(_made())
