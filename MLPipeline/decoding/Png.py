"""A PNG file's bytes -> its pixels, by libpng (imagecodecs), which gets the chunks it needs and no others."""

from __future__ import annotations

import struct

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader
from MLPipeline.decoding.StoredPixels import StoredPixels

_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})


def decode_png(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the pixels of a PNG file: (H, W) or (H, W, 3), or RGBA if it has alpha or a transparent colour.

    1, 2 and 4 bits are brought to 8, a palette to its colours; of an animation the picture for all other viewers.

    Raises:
        imagecodecs.PngError: the compressed pixels end early or are damaged.
    """
    import imagecodecs

    pixels = imagecodecs.png_decode(_essential(data) if header.has_extras else data)
    bits = 8 * pixels.dtype.itemsize
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 2:  # grey and alpha
        pixels = np.ascontiguousarray(pixels[:, :, [0, 0, 0, 1]])
    return StoredPixels(pixels, bits, header, "straight" if channels in (2, 4) else "none")


def _essential(data: bytes) -> bytes:
    """Return the file without text, profile, EXIF and other frames: libpng logs what it finds odd in them."""
    kept, position, colours = [data[:8]], 8, 0
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"PLTE":
            colours = length // 3
        is_transparency = kind == b"tRNS" and length == {0: 2, 2: 6, 3: min(length, colours)}.get(data[25])
        if kind in _NEEDED or is_transparency:
            kept.append(data[position:end])
        position = len(data) if kind == b"IEND" else end
    return b"".join(kept)
