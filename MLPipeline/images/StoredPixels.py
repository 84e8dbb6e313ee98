"""The pixels of an image file as stored: colours decoded, but neither brought to 8 bits nor laid on white yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from MLPipeline.images.ImageHeader import ImageHeader

Alpha = Literal["none", "straight", "premultiplied"]


@dataclass(frozen=True)
class StoredPixels:
    """What a decoder returns: grey or RGB values with 0 as black, at the depth of the file."""

    pixels: np.ndarray  # (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, as stored: not yet turned upright
    bits: int  # significant bits of a sample as the file states them: 8 for 1 to 8 bits, 10, 12, 14, 16, 32, 64
    header: ImageHeader
    alpha: Alpha = "none"  # "premultiplied": the colours are multiplied by alpha already
    note: str = ""  # what the user should know, such as "fourth band left out"

    @property
    def is_float(self) -> bool:
        """Whether the samples are floating-point numbers."""
        return bool(np.issubdtype(self.pixels.dtype, np.floating))
