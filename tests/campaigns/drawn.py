"""Draws small images for the campaigns, which run without pytest and its fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((200, 40, 40), (40, 60, 200), (40, 170, 60), (190, 170, 30))


def draw_images(root: Path, classes: Mapping[str, int], size: int = 16) -> Path:
    """Draw `root/<class>/<number>.png`, squares of a colour per class on noise, no two alike; return `root`."""
    draw = np.random.default_rng(0)
    for label, (name, number) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for image in range(number):
            pixels = draw.integers(90, 166, (size, size, 3), dtype=np.uint8)
            top, left = draw.integers(0, size // 2, 2)
            pixels[top : top + size // 2, left : left + size // 2] = COLOURS[label % len(COLOURS)]
            Image.fromarray(pixels).save(root / name / f"{image:03}.png")
    return root
