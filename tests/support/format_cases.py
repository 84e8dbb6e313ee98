"""Image files of every format, depth and layout, written by other libraries than those that read them, or by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from tests.support.picture_cases import png_chunk

DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
D65_XY = (0.3127, 0.3290)


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    """Return a TIFF file of exactly these samples, written by tifffile without its own metadata, only with tags."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(
        buffer, byteorder=options.pop("byteorder", "<"), bigtiff=options.pop("bigtiff", False)
    ) as writer:
        writer.write(samples, metadata=None, **options)
    return buffer.getvalue()


def wide_gamut_profile(primaries: tuple = DISPLAY_P3, gamma: float = 2.2) -> bytes:
    """Return an ICC profile (matrix and curve) with these primaries and white D65, adapted to D50."""
    return imagecodecs.cms_profile(
        "rgb", whitepoint=(*D65_XY, 1.0), primaries=[place for xy in primaries for place in (*xy, 1.0)], gamma=gamma
    )


def grey_profile(gamma: float) -> bytes:
    return imagecodecs.cms_profile("gray", whitepoint=(*D65_XY, 1.0), gamma=gamma)


def p3_to_srgb(pixels: np.ndarray, primaries: tuple = DISPLAY_P3, gamma: float = 2.2) -> np.ndarray:
    """Return the sRGB values (H, W, 3) float, 0 to 255, of colours in `primaries`, by the formulas of the standard."""
    linear = (pixels / 255.0) ** gamma
    srgb = linear @ (np.linalg.inv(to_xyz(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))) @ to_xyz(primaries)).T
    srgb = np.clip(srgb, 0, 1)
    return 255 * np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)


def to_xyz(primaries: tuple) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    x, y = D65_XY
    return columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])


def bmp(
    width: int, height: int, depth: int, compression: int, rows: bytes, after_header: bytes = b"", **parts: Any
) -> bytes:
    """Return a BMP file with a header of 40 bytes, or of `header_bytes` that end with `after_header`."""
    header_bytes = parts.get("header_bytes", 40)
    fixed = struct.pack(
        "<IiiHHIIiiII",
        header_bytes,
        width,
        height,
        1,
        depth,
        compression,
        len(rows),
        2835,
        2835,
        parts.get("colours", 0),
        0,
    )
    header = fixed + after_header
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows


def bmp_with_masks(pixels: np.ndarray, masks: tuple[int, ...], depth: int = 0, **options: Any) -> bytes:
    """Return a BMP file of `pixels` (H, W, 3 or 4) uint8 with 16 or 32 bits and these masks, bottom-up by default."""
    depth = depth or (16 if max(masks) < 2**16 else 32)
    values = np.zeros(pixels.shape[:2], np.uint64)
    for channel, mask in enumerate(masks):
        shift = (mask & -mask).bit_length() - 1
        values |= np.round(pixels[:, :, channel] * ((mask >> shift) / 255)).astype(np.uint64) << np.uint64(shift)
    height, width = values.shape
    top_down = options.get("top_down", False)
    row_bytes = (width * depth + 31) // 32 * 4
    rows = [row.tobytes().ljust(row_bytes, b"\0") for row in values.astype(f"<u{depth // 8}")]
    joined = b"".join(rows if top_down else rows[::-1])
    compression, packed = (6 if len(masks) == 4 else 3), struct.pack(f"<{len(masks)}I", *masks)
    if options.get("plain"):
        compression, packed = 0, b""
    if options.get("header_bytes"):
        packed = packed.ljust(options["header_bytes"] - 40, b"\0")
        compression = 3
    return bmp(
        width,
        -height if top_down else height,
        depth,
        compression,
        joined,
        packed,
        header_bytes=options.get("header_bytes") or 40,
    )


def bmp_rle(indices: np.ndarray, palette: np.ndarray, depth: int) -> bytes:
    """Return an RLE8 or RLE4 BMP file of palette `indices` (H, W) uint8, with long runs encoded, the rest literal."""
    coded = bytearray()
    for row in indices[::-1]:
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and run < 254 and row[at + run] == row[at]:
                run += 1
            value = int(row[at])
            coded += bytes((run, value if depth == 8 else value << 4 | value))
            at += run
        coded += b"\0\0"
    coded += b"\0\1"
    colours = b"".join(bytes((b, g, r, 0)) for r, g, b in palette.tolist())
    height, width = indices.shape
    return bmp(width, height, depth, 1 if depth == 8 else 2, bytes(coded), colours, colours=len(palette))


def png(pixels: np.ndarray, depth: int, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """Return a PNG file of samples (H, W, channels), assembled here with any depth, colour type and extra chunks."""
    height, width = pixels.shape[:2]
    body = b""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    for left, top, across, down in passes:
        part = pixels[top::down, left::across]
        if part.size:
            body += b"".join(b"\0" + pack_row(row, depth) for row in part)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [png_chunk(b"IHDR", head), *chunks, png_chunk(b"IDAT", zlib.compress(body)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def pack_row(row: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = np.unpackbits(row.astype(">u2").reshape(-1, 1).view(np.uint8), axis=1)[:, 16 - depth :]
    return np.packbits(bits.ravel()).tobytes()


def hand_made_tiff(samples: np.ndarray, bits: int, photometric: int, **options: Any) -> bytes:
    """Return a TIFF file, in one strip, of samples (H, W, channels); options: order, fill, colours, compression."""
    order, fill = options.get("order", "<"), options.get("fill", 1)
    height, width, channels = samples.shape
    body = b"".join(pack_row(row, bits) if bits <= 16 else row.tobytes() for row in samples)
    if bits == 16 and order == "<":
        body = samples.astype("<u2").tobytes()
    if fill == 2:
        body = np.packbits(np.unpackbits(np.frombuffer(body, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
    numbers = {
        256: width,
        257: height,
        259: options.get("compression", 1),
        262: photometric,
        266: fill,
        277: channels,
        278: height,
    }
    tags = [(tag, "I", [value]) for tag, value in numbers.items()]
    tags += [(258, "H", [bits] * channels), (279, "I", [len(body)])]
    if "colours" in options:
        tags.append((320, "H", options["colours"].T.ravel().tolist()))
    tags.append((273, "I", [8]))  # the strip is stored first
    start = 8 + len(body) + len(body) % 2
    directory, extra = struct.pack(order + "H", len(tags)), b""
    extra_start = start + 2 + 12 * len(tags) + 4
    for tag, code, values in sorted(tags):
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            place = struct.pack(order + "I", extra_start + len(extra))
            extra += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(values)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + body.ljust(start - 8, b"\0") + directory + bytes(4) + extra


def cmyk_profile() -> bytes:
    """Return a small CMYK profile (version 2) that clearly differs from simple ink mixing: black ink prints as grey.

    It has one table (`A2B0`, lut8) with two steps per ink: the Lab colours of the 16 combinations.
    """
    colours = []
    for inks in np.ndindex(2, 2, 2, 2):
        light = 100.0 * (1 - 0.25 * sum(inks[:3])) * (0.6 if inks[3] else 1)
        colours.append((round(light * 2.55), 128 - 40 * inks[0] + 40 * inks[1], 128 + 60 * inks[2] - 30 * inks[0]))
    identity = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + ramp * 4 + np.uint8(colours).tobytes() + ramp * 3
    text = b"text" + bytes(4) + b"none\0\0\0\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(place * 65536) for place in (0.9642, 1.0, 0.8249)))
    tags = {b"A2B0": table, b"desc": name, b"cprt": text, b"wtpt": white}
    start, entries, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        entries += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12x4s28x3i", 0, b"none", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp", 63190, 65536, 54061
    )
    profile = (head.ljust(128, b"\0")) + struct.pack(">I", len(tags)) + entries + body
    return struct.pack(">I", len(profile)) + profile[4:]
