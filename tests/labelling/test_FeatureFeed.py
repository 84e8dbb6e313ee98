"""The features that labelling computes in the background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.labelling.FeatureFeed import FeatureFeed
from MLPipeline.Models import build_model


def test_a_thermal_picture_has_the_features_of_its_picture_in_8_bits(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    grey[:8] = np.repeat([0, 255], 24)
    paths = [tmp_path / "plain.png", tmp_path / "thermal.png"]
    cv2.imwrite(str(paths[0]), grey)
    cv2.imwrite(str(paths[1]), 51500 + 2 * grey.astype(np.uint16))
    torch.manual_seed(0)
    model = build_model("cnn", 2, 32)
    model.freeze("backbone")
    found: dict[int, np.ndarray] = {}

    def keep(numbers, rows):
        found.update(zip(numbers, np.array(rows, np.float32), strict=True))

    feed = FeatureFeed(FrozenStages(model.eval(), 32, "fp32"), tmp_path / "cache", 1, keep, lambda *_: None)
    feed.compute(range(2), paths)
    assert np.abs(found[0]).max() > 0 and np.abs(found[0] - found[1]).max() < 0.02 * np.abs(found[0]).max()
