"""What an image file says of itself: format and size, read from its first bytes before any pixel is decoded.

A header is cheap to forge: 70000 x 70000 pixels take 30 bytes to claim and 15 GB to decode. So the size is checked
here, and what the decoder does not tell (is it whole? how many frames? which way up?) is read from the structure.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from MLPipeline.Errors import DataError

MAX_PIXELS = 250_000_000  # at 8 bits a channel; the largest phone sensors have 200 million
# What a file begins with, in the order of asking; at the end what is often found under an image's name.
SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|MM\0\*",
    "BMP": rb"BM.{12}[\x0c-\x80]\0\0\0",
    "AVIF": rb"....ftyp.{0,56}avi[fs]",
    "HEIC": rb"....ftyp.{0,56}(hei[cmsx]|hev[cx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "BigTIFF": rb"II\+\0|MM\0\+",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF",
    "HTML": rb".{0,4096}?<(!doctype )?html",
    "SVG": rb".{0,4096}?<svg",
    "video": rb"....ftyp",
    "text": rb"[\s!-~]{16}|[\s!-~]*\Z",
}
FOREIGN = {"HEIC", "JPEG XL", "JPEG 2000", "BigTIFF", "PSD", "PDF", "SVG"}
# SOF0 to SOF15 without the three other markers in that range: DHT, JPG and DAC.
JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# AVIF turns by so many quarters anticlockwise, then mirrors (0 top to bottom, 1 left to right): [mirror][turn] -> EXIF.
AVIF_ORIENTATIONS = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}


class UnreadableImage(DataError):  # noqa: N818 - it is a finding about a file more than an error
    """An image that cannot be used; `reason` says why in a few words, for the list of skipped files."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the image cannot be read: {reason}", "Replace it, or save it anew as JPEG or PNG")

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableImage, (self.reason,)  # as it travels between processes


@dataclass(frozen=True)
class ImageHeader:
    """What stands in a file's header; sizes are in pixels as stored, before any turning."""

    kind: str  # "JPEG", "PNG", ...
    width: int
    height: int
    frames: int = 1
    channel_bytes: int = 1
    orientation: int = 1  # EXIF number 1 to 8
    channels: int = 3  # JPEG: 1 grey, 3 colour, 4 CMYK; of other kinds the decoded pixels tell
    body: int = 0  # JPEG: where the compressed pixels begin
    progressive: bool = False
    transparent_grey: int | None = None  # the one grey value that stands for "transparent", as decoded

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UnreadableImage(f"corrupt {self.kind}")
        if self.width * self.height * self.channel_bytes > MAX_PIXELS:
            raise UnreadableImage(f"too large: {self.width}x{self.height}")


def read_header(data: bytes) -> ImageHeader:
    """Return the header of the image file whose bytes are `data`.

    Raises:
        UnreadableImage: not an image, a format we do not decode, cut off, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise UnreadableImage("empty file")
    kind = _sniff(data)
    try:
        return PARSERS[kind](data)
    except (struct.error, IndexError, ValueError):  # the structure leads past the end of the file
        raise UnreadableImage(f"truncated {kind}") from None


def _sniff(data: bytes) -> str:
    """Return the kind of image, told by content alone: names lie. Raises UnreadableImage for all we do not decode."""
    flags = re.DOTALL | re.IGNORECASE
    kind = next((kind for kind, signature in SIGNATURES.items() if re.match(signature, data, flags)), "")
    if kind in PARSERS:
        return kind
    if kind in FOREIGN:
        raise UnreadableImage(f"{kind}: convert to JPEG or PNG")
    raise UnreadableImage(f"not an image ({kind})" if kind else "not an image")


def _parse_jpeg(data: bytes) -> ImageHeader:
    position, size, progressive, channels, orientation = 2, (0, 0), False, 3, 1
    while True:
        position = data.index(b"\xff", position)
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan: only compressed pixels from here on
            header = ImageHeader("JPEG", size[1], size[0], orientation=orientation, channels=channels)
            return replace(header, body=position, progressive=progressive)
        if marker in JPEG_FRAME_MARKERS:
            size, channels = struct.unpack_from(">HH", data, position + 5), data[position + 9]
            progressive = marker == 0xC2
        if marker == 0xE1 and data.startswith(b"Exif\0\0", position + 4):
            orientation = _exif_orientation(data[position + 4 : position + 65_536])
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9 or marker == 0xFF:  # no length: bare markers, padding
            position += 1
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]


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
        if kind in (b"acTL", b"eXIf", b"tRNS"):
            chunks[kind] = data[position + 8 : end - 4]
        position = end
    transparent_grey = None
    if colour == 0 and b"tRNS" in chunks:  # the decoder stretches 1, 2 and 4 bits to 8
        transparent_grey = struct.unpack_from(">H", chunks[b"tRNS"])[0] * {1: 255, 2: 85, 4: 17}.get(depth, 1)
    frames = struct.unpack_from(">I", chunks[b"acTL"])[0] if b"acTL" in chunks else 1
    orientation = _exif_orientation(chunks.get(b"eXIf", b""))
    return replace(header, frames=frames, orientation=orientation, transparent_grey=transparent_grey)


def _parse_webp(data: bytes) -> ImageHeader:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    position, size, frames, orientation = 12, (0, 0), 0, 1
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
            orientation = _exif_orientation(data[body : body + length])
        position = body + length + (length & 1)
    if end > len(data):
        raise UnreadableImage("truncated WebP")
    return ImageHeader("WebP", *size, frames=max(frames, 1), orientation=orientation)


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


def _parse_bmp(data: bytes) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return ImageHeader("BMP", width, abs(height))  # a negative height: stored from the top


def _parse_tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    page, pages = first, set[int]()
    while page and page not in pages:  # links may run in a circle
        pages.add(page)
        (entries,) = struct.unpack_from(order + "H", data, page)
        (page,) = struct.unpack_from(order + "I", data, page + 2 + 12 * entries)
    tags = _tiff_tags(data, order, first)
    width, height, bits = (tags.get(tag, 1) for tag in (256, 257, 258))  # ImageWidth, ImageLength, BitsPerSample
    return ImageHeader("TIFF", width, height, len(pages), bits // 8 or 1, _orientation(tags))


def _tiff_tags(data: bytes, order: str, position: int) -> dict[int, int]:
    """Return the first value of every whole-number tag in the TIFF directory at `position`."""
    tags = {}
    (entries,) = struct.unpack_from(order + "H", data, position)
    for entry in range(position + 2, position + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
        code, width = {3: ("H", 2), 4: ("I", 4)}.get(kind, ("", 0))
        if code:
            at = entry + 8 if count * width <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
            (tags[tag],) = struct.unpack_from(order + code, data, at)
    return tags


def _exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or the block is damaged, as viewers do."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif[:2] == b"II" else ">"
    try:
        tags = _tiff_tags(exif, order, struct.unpack_from(order + "I", exif, 4)[0])
    except struct.error:
        return 1
    return _orientation(tags)  # EXIF data has the form of a TIFF directory


def _orientation(tags: dict[int, int]) -> int:
    return tags[274] if 1 <= tags.get(274, 0) <= 8 else 1


def _parse_avif(data: bytes) -> ImageHeader:
    """Return the header from the item properties; of several items (tiles, thumbnail, alpha) the largest counts."""
    start = data.index(b"ipco")
    properties = data[start : start + 65_536]
    sizes = [struct.unpack_from(">II", properties, found.end() + 4) for found in re.finditer(b"ispe", properties)]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turn, mirror = properties.find(b"irot"), properties.find(b"imir")
    turned = properties[turn + 4] & 3 if turn >= 0 else 0
    mirrored = properties[mirror + 4] & 1 if mirror >= 0 else None
    is_sequence = data[8:12] == b"avis"
    frames = struct.unpack_from(">I", data, data.index(b"stsz") + 12)[0] if is_sequence else 1
    return ImageHeader("AVIF", width, height, frames=frames, orientation=AVIF_ORIENTATIONS[mirrored][turned])


PARSERS: dict[str, Callable[[bytes], ImageHeader]] = {
    "JPEG": _parse_jpeg,
    "PNG": _parse_png,
    "WebP": _parse_webp,
    "GIF": _parse_gif,
    "TIFF": _parse_tiff,
    "BMP": _parse_bmp,
    "AVIF": _parse_avif,
}
