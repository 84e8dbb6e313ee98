"""Labelled images as an exported network receives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelledPixels:
    """N images with their classes."""

    pixels: np.ndarray  # (N, S, S, 3) uint8 RGB
    labels: np.ndarray  # (N,) int
