"""Pillow, with the pixel limit of this reader and without its warnings."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from MLPipeline.decoding.ImageHeader import MAX_PIXELS

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # the header was checked against it
warnings.filterwarnings("ignore", module=r"PIL\b")  # the reader reports what is wrong, with the name of the file


def open_image(data: bytes, kind: str) -> Image.Image:
    """Return the image in a file of this `kind`, not yet decoded. Raises what Pillow raises for damaged files."""
    return Image.open(io.BytesIO(data), formats=[kind.upper()])
