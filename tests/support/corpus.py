"""A case of the corpus of image files: how the file is written, and the picture that it shows or why it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from tests.support.picture_cases import scene

PICTURE = scene(40, 24)
GREY = PICTURE[:, :, 0]
ALPHA = np.ascontiguousarray(GREY[::-1, ::-1])
ORIENTATION = 0x112


@dataclass(frozen=True)
class Case:
    name: str
    write: Callable[[], bytes]
    expected: np.ndarray  # (H, W) or (H, W, 3), 0 to 255
    bound: float = 1.0  # largest mean difference
    peak: float = 255.0  # largest difference of all
    note: str = ""  # part of the note


@dataclass(frozen=True)
class Refused:
    name: str
    write: Callable[[], bytes]
    reason: str


def as_type(values: np.ndarray, kind: str) -> np.ndarray:
    """0 to 255 -> the full range of a type: 0 to 1 for floats, 0 to the largest number for integers."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (values / 255).astype(dtype)
    top = np.iinfo(dtype).max
    return (values.astype(np.uint64) * (top // 255) if dtype.itemsize > 1 else values * (top / 255)).astype(dtype)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = (alpha / 255)[:, :, None]
    return (pixels if pixels.ndim == 3 else pixels[:, :, None]) * opacity + 255 * (1 - opacity)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))
