"""The pixels of an image file as stored: colours decoded, but neither brought to 8 bits nor laid on white yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader

Alpha = Literal["none", "straight", "premultiplied"]


@dataclass(frozen=True)
class StoredPixels:
    """What a decoder returns: grey or RGB values with 0 as black, at the depth of the file."""

    # (H, W) grey, (H, W, 3) RGB, (H, W, 4) RGBA, or without alpha uint8 CMYK, 0 for no ink; before the orientation
    pixels: np.ndarray
    bits: int  # integers range up to 2 ** bits - 1: 8 for 1 to 8 bits, 10, 12, 14, 16, 32, 64; signed: one less
    header: ImageHeader
    alpha: Alpha = "none"  # "premultiplied": the colours are multiplied by alpha already
    no_data: float | None = None  # the value of samples that were not measured, which have no say in the levels
    note: str = ""  # what the user should know, such as "fourth band left out"

    @property
    def is_float(self) -> bool:
        """Whether the samples are floating-point numbers."""
        return bool(np.issubdtype(self.pixels.dtype, np.floating))
