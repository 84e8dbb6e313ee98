"""A JPEG file's bytes -> its pixels, and proof that none are missing.

    data --simplejpeg (libjpeg-turbo), strict--> RGB           every ordinary file; the same pixels as OpenCV gives
                                             --> a warning     what it means is decided here: used, noted or refused
    data --imagecodecs (libjpeg-turbo)--> more than 8 bits     12-bit and lossless files

libjpeg fills missing pixels with grey and warns, but reports only the first warning of a file. So a file with a warning
is decoded again without anything that follows its pixels; a warning that remains concerns the pixels themselves.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np
import simplejpeg

from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.JpegStructure import END, PROGRESSIVE, JpegBody, parse_body
from MLPipeline.decoding.StoredPixels import StoredPixels

MAX_ROWS_LOST = 0.01  # of all rows, at the bottom, that a picture may lack and still be used
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
_JUNK = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_TOO_SHORT = "premature end"
_UNUSUAL_SAMPLING = "subsampling level"  # colour at a resolution that simplejpeg has no name for
# Warnings about headers, with which cameras and old programs get by: the pixels are all there.
_HARMLESS = ("Invalid SOS parameters", "Unknown Adobe color transform", "unknown JFIF", "Inconsistent progression")
_FILLINGS = (b"\x00" * 16 + END, b"\x55" * 16 + END)
_PRINTABLE = frozenset(b"\t\n\r" + bytes(range(0x20, 0x7F)))
Decoder = Callable[[bytes], np.ndarray]


def decode_jpeg(data: bytes, header: ImageHeader, size: tuple[int, int] | None) -> StoredPixels:
    """Return the pixels of a JPEG file, at 1/2, 1/4 or 1/8 of its size where that is no smaller than `size`.

    Grey and CMYK are returned as RGB. With a profile they are not: (H, W) grey, (H, W, 4) CMYK with 0 for "no ink".

    Raises:
        UnreadableImage: pixels are missing or damaged.
        Exception: what the decoder raises for a file that is no JPEG it knows.
    """
    if header.bits > 8:
        return _decode_deep(data, header)
    space = {1: "GRAY", 4: "CMYK"}.get(header.channels, "RGB") if header.profile else "RGB"
    scale = reduction(header, size)

    def decode(content: bytes, strict: bool = False) -> np.ndarray:
        # Of the sizes libjpeg can make, in eighths, it takes the smallest that is no smaller than this one.
        height, width = -(-header.height // scale), -(-header.width // scale)
        return simplejpeg.decode_jpeg(content, space, min_height=height, min_width=width, strict=strict)

    note = ""
    try:
        pixels = decode(data, strict=True)
    except ValueError as error:
        if _UNUSUAL_SAMPLING in str(error):
            return _decode_by_pillow(data, header, scale)
        data, note = _without_trailer(data, header, str(error), decode)
        pixels = decode(data)
    else:
        if header.coding in PROGRESSIVE or data.find(bytes(64), header.body) >= 0:
            _check_body(parse_body(data, header), data, header)
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    elif space == "CMYK":  # Adobe stores inks inverted, and with it everyone else: CMYK in JPEG comes from nowhere else
        pixels = 255 - pixels
    return StoredPixels(pixels, 8, header, note=note)


def reduction(header: ImageHeader, size: tuple[int, int] | None) -> int:
    """Return 1, 2, 4 or 8: the part of its size at which a JPEG is decoded that is to be resized to `size`.

    Measured on 400 x 533 photos, mean difference from the full decode, of 255: 1.7 at 200 x 200, 1.4 at 128, 3.2 at 96,
    2.3 at 64. A bilinear resize of the full decode, which is common, differs by 1.4, 3.5, 4.7 and 6.4.
    """
    if size is None or header.kind != "JPEG" or header.bits > 8:
        return 1
    spare = min(header.width, header.height) // max(size)  # shortest by longest side: it may yet be turned
    return next((scale for scale in (8, 4, 2) if spare >= scale), 1)


def _without_trailer(data: bytes, header: ImageHeader, warning: str, decode: Decoder) -> tuple[bytes, str]:
    """Return the file from its start to the last pixel, closed, and a note on what is wrong with it."""
    try:
        body = parse_body(data, header)
    except (struct.error, IndexError, ValueError):
        raise UnreadableImage("truncated JPEG") from None
    closed = data[: body.end] + END
    if body.marker == 0 and header.coding in _ARITHMETIC:  # its data has no end of its own, and the decoder no warning
        raise UnreadableImage("truncated JPEG")
    try:
        simplejpeg.decode_jpeg(closed, "GRAY" if header.channels != 4 else "RGB", strict=True)
    except ValueError as error:
        warning = str(error)
    else:
        _check_body(body, data, header)
        if body.marker == 0 and data.endswith(bytes(64)):  # room on the disk that a broken download had reserved
            raise UnreadableImage("truncated JPEG")
        return closed, "end marker missing"
    if junk := _JUNK.search(warning):
        _check_body(body, _without_junk(data[: body.end], int(junk[1])), header)
        return closed, "junk before the end marker"
    if _TOO_SHORT in warning:
        return closed, _check_rows(data[: body.end], body, header, decode)
    if any(text in warning for text in _HARMLESS) and not _rows_lost(data[: body.end], header, decode):
        _check_body(body, data, header)
        return closed, "unusual JPEG header"
    raise UnreadableImage("truncated or corrupt JPEG")


def _check_body(body: JpegBody, data: bytes, header: ImageHeader) -> None:
    """Raise UnreadableImage if pixels are missing although the decoder has found enough data for all of them."""
    if body.lacks_scans(header) or body.has_hole(data, header):
        raise UnreadableImage("truncated JPEG")


def _without_junk(data: bytes, num_junk: int) -> bytes:
    """Return `data` up to its last pixel; about `num_junk` bytes follow it.

    Raises:
        UnreadableImage: pixels are missing. Either without the junk too few are left; or the decoder has read the
            beginning of the junk as pixels: the bytes before the rest of it are of the same kind, zeros before zeros,
            text before text, or a repetition.
    """
    # The decoder reads up to 8 bytes ahead and does not count them.
    last = len(data) - num_junk
    end = next((end for end in range(max(1, last - 8), last + 1) if _is_whole(data[:end])), 0)
    before, junk = data[max(0, end - 4) : end], data[end:]
    zeros = before.endswith(b"\0") and not any(junk)
    text = all(byte in _PRINTABLE for byte in before) and all(byte in _PRINTABLE for byte in junk)
    if not end or zeros or text or before in junk:
        raise UnreadableImage("truncated JPEG")
    return data[:end]


def _is_whole(data: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(data + END, "RGB", min_height=1, min_width=1, strict=True)
    except ValueError:
        return False
    return True


def _check_rows(data: bytes, body: JpegBody, header: ImageHeader, decode: Decoder) -> str:
    """Return a note on the rows that are missing at the bottom. Raises UnreadableImage if they are too many."""
    if header.coding in PROGRESSIVE or body.has_restarts or len(body.scans) > 1 or body.has_hole(data, header):
        raise UnreadableImage("truncated JPEG")  # what is missing may lie anywhere
    lost = _rows_lost(data, header, decode)
    if not 0 < lost <= MAX_ROWS_LOST * header.height:
        raise UnreadableImage("truncated JPEG")
    return f"truncated: the last {lost} of {header.height} rows are missing"


def _rows_lost(data: bytes, header: ImageHeader, decode: Decoder) -> int:
    """Return how many rows depend on what stands behind the data: pixels that the file does not hold."""
    first, second = (decode(data + filling).astype(np.int16) for filling in _FILLINGS)
    differing = np.flatnonzero(np.abs(first - second).reshape(len(first), -1).any(axis=1))
    return round((len(first) - differing[0]) * header.height / len(first)) if differing.size else 0


def _decode_by_pillow(data: bytes, header: ImageHeader, scale: int) -> StoredPixels:
    """Return the pixels of a file that simplejpeg does not take, decoded by the same libjpeg-turbo through Pillow."""
    from MLPipeline.decoding.Pillow import open_image

    def decode(content: bytes) -> np.ndarray:
        with open_image(content, "JPEG") as image:
            image.draft(None, (header.width // scale, header.height // scale))
            return np.array(image)

    _check_by_fillings(data, header, decode)
    pixels = decode(data)  # CMYK: 0 for no ink
    if pixels.ndim == 2 and not header.profile:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    elif header.channels == 4 and not header.profile:
        light = 255 - pixels.astype(np.int32)
        colour, black = light[:, :, :3], light[:, :, 3:]
        pixels = (black - ((255 - colour) * black >> 8)).astype(np.uint8)  # rounded as simplejpeg and OpenCV do
    return StoredPixels(pixels, 8, header)


def _check_by_fillings(data: bytes, header: ImageHeader, decode: Decoder) -> None:
    """Raise UnreadableImage if pixels are missing; `decode` reports no warnings.

    Missing pixels are those that depend on what follows the data.
    """
    body = parse_body(data, header)
    _check_body(body, data, header)
    if body.marker != END[1] or _rows_lost(data[: body.end], header, decode):
        raise UnreadableImage("truncated JPEG")


def _decode_deep(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the pixels of a 12-bit or lossless file: uint16."""
    import imagecodecs

    _check_by_fillings(data, header, imagecodecs.jpeg8_decode)
    pixels = imagecodecs.jpeg8_decode(data)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        raise UnreadableImage(f"{header.bits}-bit JPEG with {pixels.shape[2]} channels")
    return StoredPixels(pixels, header.bits, header)
