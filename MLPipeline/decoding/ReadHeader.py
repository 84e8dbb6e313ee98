"""An image file's bytes -> its header, read from the structure before any pixel is decoded.

A header is cheap to forge: 70000 x 70000 pixels take 30 bytes to claim and 15 GB to decode. So the size is checked
here, and what decoders do not report (is the file whole? how many frames? which way up?) is read from the structure.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

from MLPipeline.decoding.Bmp import parse_bmp
from MLPipeline.decoding.HeaderColour import avif_colour, png_colour
from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.JpegStructure import parse_jpeg
from MLPipeline.decoding.TiffTags import exif_orientation, parse_tiff

# How a file begins, in the order of the checks; the last ones are often found under the name of an image.
SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c-\x80]\0\0\0",
    "AVIF": rb"....ftyp.{0,56}avi[fs]",
    "HEIC": rb"....ftyp.{0,56}(hei[cmsx]|hev[cx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF",
    "HTML": rb".{0,4096}?<(!doctype )?html",
    "SVG": rb".{0,4096}?<svg",
    "video": rb"....ftyp",
    "text": rb"[\s!-~]{16}|[\s!-~]*\Z",
}
FOREIGN = {"HEIC", "JPEG XL", "JPEG 2000", "PSD", "PDF", "SVG"}
# AVIF turns by so many quarters anticlockwise, then mirrors (0 top to bottom, 1 left to right): [mirror][turn] -> EXIF.
AVIF_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}
_FLAT_BYTES = 0.25  # of a pixel in a lossless WebP file, at most, if most of it is flat: photographs take 0.24 to 3


def read_header(data: bytes) -> ImageHeader:
    """Return the header of the image file whose bytes are `data`.

    Raises:
        UnreadableImage: not an image, a format that is not decoded, cut off, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadableImage("empty file")
    kind = _sniff(data)
    try:
        return PARSERS[kind](data)
    except (struct.error, IndexError, ValueError, OverflowError):  # the structure leads past the end of the file
        raise UnreadableImage(f"truncated {kind}") from None


def _sniff(data: bytes) -> str:
    """Return the kind of image, from the content alone. Raises UnreadableImage for every kind that is not decoded."""
    flags = re.DOTALL | re.IGNORECASE
    kind = next((kind for kind, signature in SIGNATURES.items() if re.match(signature, data, flags)), "")
    if kind in PARSERS:
        return kind
    if kind in FOREIGN:
        raise UnreadableImage(f"{kind}: convert to JPEG or PNG")
    raise UnreadableImage(f"not an image ({kind})" if kind else "not an image")


def _parse_png(data: bytes) -> ImageHeader:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    header = ImageHeader("PNG", width, height, channel_bytes=depth // 8 or 1)  # refuses a size before reading on
    view, position, kind = memoryview(data), 8, b""
    chunks: dict[bytes, bytes] = {}
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise UnreadableImage("PNG with a bad checksum")
        if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            chunks.setdefault(kind, data[position + 8 : end - 4])
        position = end
    if not chunks:
        return header
    frames = struct.unpack_from(">I", chunks[b"acTL"])[0] if b"acTL" in chunks else 1
    orientation = exif_orientation(chunks.get(b"eXIf", b""))
    profile, gamma, note = png_colour(chunks)
    return replace(
        header, frames=frames, orientation=orientation, has_extras=True, profile=profile, gamma=gamma, note=note
    )


def _parse_webp(data: bytes) -> ImageHeader:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    position, size, frames, orientation, profile, doubtful = 12, (0, 0), 0, 1, b"", 0
    while position < end:
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            canvas = int.from_bytes(data[body + 4 : body + 10], "little")
            size = 1 + (canvas & 0xFFFFFF), 1 + (canvas >> 24)
        elif kind == b"VP8 " and not any(size):
            width, height = struct.unpack_from("<HH", data, body + 6)
            size = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and not any(size):
            (bits,) = struct.unpack_from("<I", data, body + 1)
            size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = exif_orientation(data[body : body + length])
        elif kind == b"ICCP":
            profile = data[body : body + length]
        if kind == b"VP8L" and data.find(bytes(64), body, body + length) >= 0:  # a hole, or a flat area
            _require_flat(length, size)
            doubtful = position
        position = body + length + (length & 1)
    if end > len(data):
        raise UnreadableImage("truncated WebP")
    return ImageHeader("WebP", *size, frames=max(frames, 1), orientation=orientation, body=doubtful, profile=profile)


def _require_flat(length: int, size: tuple[int, int]) -> None:
    if length > _FLAT_BYTES * size[0] * size[1]:
        raise UnreadableImage("truncated WebP")


def _parse_gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, frames = 13 + _palette_bytes(flags), 0
    while data[position] != 0x3B:  # trailer
        if data[position] == 0x2C:  # an image
            frames += 1
            position += 11 + _palette_bytes(data[position + 9])
        else:  # an extension
            position += 2
        while data[position]:  # sub-blocks, each led by its length
            position += 1 + data[position]
        position += 1
    return ImageHeader("GIF", width, height, frames=frames)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _parse_avif(data: bytes) -> ImageHeader:
    """Return the header from the item properties; of several items (tiles, thumbnail, alpha) the largest counts."""
    start = data.index(b"ipco")
    properties = data[start : start + struct.unpack_from(">I", data, start - 4)[0]]
    sizes = [struct.unpack_from(">II", properties, found.end() + 4) for found in re.finditer(b"ispe", properties)]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turn, mirror = properties.find(b"irot"), properties.find(b"imir")
    turned = properties[turn + 4] & 3 if turn >= 0 else 0
    mirrored = properties[mirror + 4] & 1 if mirror >= 0 else None
    is_sequence = data[8:12] == b"avis"
    frames = struct.unpack_from(">I", data, data.index(b"stsz") + 12)[0] if is_sequence else 1
    orientation = AVIF_ORIENTATIONS[mirrored][turned]
    colour = avif_colour(properties)
    bits = _avif_bits(properties)
    return ImageHeader(
        "AVIF", width, height, frames, 1 if bits == 8 else 2, orientation, bits=bits, profile=colour[0], note=colour[1]
    )


def _avif_bits(properties: bytes) -> int:
    """Return the bits of a sample, from the codec's configuration (AV1-ISOBMFF, 2.3.3)."""
    at = properties.find(b"av1C")
    flags = properties[at + 6] if at >= 0 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


PARSERS: dict[str, Callable[[bytes], ImageHeader]] = {
    "JPEG": parse_jpeg,
    "PNG": _parse_png,
    "WebP": _parse_webp,
    "GIF": _parse_gif,
    "TIFF": parse_tiff,
    "BMP": parse_bmp,
    "AVIF": _parse_avif,
}
