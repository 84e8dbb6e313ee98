"""A BMP file's bytes -> its pixels: 16 and 32 bits with masks here, everything else by Pillow.

The file says which bits of a pixel hold which colour, and decoders guess instead: OpenCV takes the fourth byte for
alpha, Pillow refuses masks it does not know. Layout: Microsoft, "Bitmap Storage", BITMAPINFOHEADER to BITMAPV5HEADER.
"""

from __future__ import annotations

import struct

import numpy as np

from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.StoredPixels import StoredPixels

_RGB, _BITFIELDS, _ALPHABITFIELDS = 0, 3, 6  # compressions
_DEFAULT_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_V1_BYTES = 40  # masks lie behind headers of this size
_V3_BYTES = 56  # headers of this size or more hold the mask of alpha too
_EMBEDDED = b"DEBM"  # colour space "MBED": an ICC profile lies in the file


def parse_bmp(data: bytes) -> ImageHeader:
    """Return the header of a BMP file. Raises struct.error if it is cut off."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    profile = b""
    if header_bytes >= 124 and data[70:74] == _EMBEDDED:
        start, length = struct.unpack_from("<II", data, 14 + 112)
        profile = data[14 + start : 14 + start + length]
    return ImageHeader("BMP", width, abs(height), profile=profile)  # a negative height: stored from the top


def decode_bmp(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the pixels of a BMP file: RGB, or RGBA where it has a mask for alpha that is not all 0; or grey.

    Raises:
        UnreadableImage: too few pixels.
        Exception: what Pillow raises for a damaged file.
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes >= 40:
        depth, compression = struct.unpack_from("<HI", data, 28)
        if depth in _DEFAULT_MASKS and compression in (_RGB, _BITFIELDS, _ALPHABITFIELDS):
            return _decode_masked(data, header, depth, compression)
    from MLPipeline.decoding.Pillow import open_image

    with open_image(data, "BMP") as image:
        return StoredPixels(np.array(image if image.mode == "L" else image.convert("RGB")), 8, header)


def _decode_masked(data: bytes, header: ImageHeader, depth: int, compression: int) -> StoredPixels:
    start, header_bytes = struct.unpack_from("<II", data, 10)
    separate = {_RGB: 0, _BITFIELDS: 12, _ALPHABITFIELDS: 16}[compression] if header_bytes == _V1_BYTES else 0
    start = max(start, 14 + header_bytes + separate)  # some programs leave the position of the pixels 0
    masks = _DEFAULT_MASKS[depth]
    if compression != _RGB:
        has_alpha = compression == _ALPHABITFIELDS or header_bytes >= _V3_BYTES
        masks = struct.unpack_from("<IIII", data, 54) if has_alpha else (*struct.unpack_from("<III", data, 54), 0)
    width, height = header.width, header.height
    row_bytes = (width * depth + 31) // 32 * 4
    if len(data) < start + row_bytes * height:
        raise UnreadableImage("truncated BMP")
    rows = np.frombuffer(data, np.uint8, row_bytes * height, start).reshape(height, row_bytes)
    values = np.ascontiguousarray(rows[:, : width * depth // 8]).view(f"<u{depth // 8}")
    if struct.unpack_from("<i", data, 22)[0] > 0:  # stored from the bottom
        values = values[::-1]
    channels = [_channel(values, mask) for mask in masks]
    if masks[3] and channels[3].any():  # all 0: a writer that knows no alpha
        return StoredPixels(np.dstack(channels), 8, header, "straight")
    is_used = compression == _RGB and depth == 32 and len(np.unique(values >> 24)) > 1
    return StoredPixels(np.dstack(channels[:3]), 8, header, note="fourth byte, undefined, left out" if is_used else "")


def _channel(values: np.ndarray, mask: int) -> np.ndarray:
    """Return the bits under `mask`, brought to 0 to 255, (H, W) uint8; all 0 for an empty mask."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    full = mask >> shift
    found = values.astype(np.uint64) >> np.uint64(shift) & np.uint64(full)
    return found.astype(np.uint8) if full == 255 else np.round(found * (255 / full)).astype(np.uint8)
