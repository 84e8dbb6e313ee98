"""The first frame of a GIF, WebP or AVIF file, laid out on its canvas."""

from __future__ import annotations

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.OpenCv import cv2
from MLPipeline.decoding.StoredPixels import StoredPixels


def decode_first_frame(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the first frame of a GIF or WebP file, by Pillow: (H, W, 3) RGB, or (H, W, 4) RGBA.

    Raises:
        Exception: what Pillow raises for a file that is cut off or damaged.
    """
    from MLPipeline.decoding.Pillow import open_image

    with open_image(data, header.kind) as image:
        has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        pixels = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    return StoredPixels(pixels, 8, header, "straight" if has_alpha else "none")


def decode_avif(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the first picture of an AVIF file, by libavif (OpenCV): uint8, or uint16 with 10 or 12 bits.

    Raises:
        UnreadableImage: it is cut off or damaged.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnreadableImage("truncated or corrupt AVIF")
    has_alpha = pixels.ndim == 3 and pixels.shape[2] == 4
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if has_alpha else cv2.COLOR_BGR2RGB)
    bits = header.bits if pixels.dtype == np.uint16 else 8
    if has_alpha and bits > 8:  # alpha is given in the full range of its type
        pixels[:, :, 3] = np.round(pixels[:, :, 3] * (65535 / (2**bits - 1)))
    return StoredPixels(pixels, bits, header, "straight" if has_alpha else "none")
