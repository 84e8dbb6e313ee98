"""A small classifier whose backbone is quantized, for tests of 8 bits."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Models import build_model
from MLPipeline.onednn.Int8Backbone import calibrate
from MLPipeline.onednn.Int8Network import Int8Network

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
    model.quantized = calibrated(model, pixels(16))
    return model


def calibrated(model: Classifier, images: np.ndarray) -> Int8Network:
    """Return what is measured on images (N, SIZE, SIZE, 3) uint8."""
    return calibrate(model.backbone, model.normalization, torch.from_numpy(images).permute(0, 3, 1, 2))


def small_int8() -> Classifier:
    """Return the `cnn` for three classes with random weights, frozen, with its backbone in 8 bits as well."""
    return copy.deepcopy(_made())
