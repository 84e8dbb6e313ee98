"""The first frame of a GIF, WebP or AVIF file, laid out on its canvas."""

from __future__ import annotations

import struct

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.OpenCv import cv2
from MLPipeline.decoding.StoredPixels import StoredPixels

_READ_BEYOND = 8  # bytes that the last pixels may lack: the decoder has them all before it misses the rest


def decode_first_frame(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the first frame of a GIF or WebP file, by Pillow: (H, W, 3) RGB, or (H, W, 4) RGBA.

    Raises:
        UnreadableImage: zeros stand where pixels were.
        Exception: what Pillow raises for a file that is cut off or damaged.
    """
    from MLPipeline.decoding.Pillow import open_image

    with open_image(data, header.kind) as image:
        has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        pixels = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    if header.kind == "WebP" and header.body and _needs_less(data, header.body):
        raise UnreadableImage("truncated WebP")
    return StoredPixels(pixels, 8, header, "straight" if has_alpha else "none")


def _needs_less(data: bytes, position: int) -> bool:
    """Return whether all pixels of a lossless WebP picture, whose chunk is at `position`, come before its data ends.

    Zeros in place of pixels are read as pixels, but as another number of them, so that the rest of the data is left.
    """
    from MLPipeline.decoding.Pillow import open_image

    length = struct.unpack_from("<I", data, position + 4)[0] - _READ_BEYOND
    chunk = data[position + 8 : position + 8 + length] + bytes(length & 1)
    try:
        with open_image(struct.pack("<4sI8sI", b"RIFF", 12 + len(chunk), b"WEBPVP8L", length) + chunk, "WebP") as image:
            image.load()
    except (OSError, ValueError, EOFError):
        return False
    return True


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
