"""Reads an image file with OpenCV and numpy alone, as `decoding/` does; the first half of the exported script.

    pixels = resize(decode(read_bytes(path), size, levels), (size, size), fit)

Every file is either decoded to the pixels that the model was trained on, or refused with the reason. Where OpenCV would
guess, or cannot tell a whole file from a damaged one, the structure of the file decides. Not read at all: TIFF, GIF,
AVIF, CMYK and files of more than one frame. The only difference allowed: colours of an ICC profile other than sRGB are
converted with a rounding error of 1 of 255.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

MAX_PIXELS, MAX_FILE_BYTES = 250_000_000, 512 * 2**20
_HOLE = bytes(64)  # zero bytes in a row among the pixels of a JPEG file: a lost block
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # ends the pixels of a scan
_SRGB_GAMMA = 45455
_DECODING = threading.Lock()
cv2.setNumThreads(1)
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)


class Refused(Exception):  # noqa: N818 - it is a finding about a file more than an error
    """An image file that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """What is read from the structure of a file before it is decoded."""

    kind: str
    width: int
    height: int
    orientation: int = 1  # EXIF number 1 to 8
    profile: bytes = b""  # ICC profile
    gamma: float = 0.0  # PNG: exponent of the values where it is not that of sRGB


def read_bytes(path: Path) -> bytes:
    """Return the content of the regular file `path`.

    Raises:
        Refused: it is no regular file, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            raise Refused("not a regular file" if path.exists() else "no such file or directory")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"too large: {path.stat().st_size / 2**20:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise Refused((error.strerror or type(error).__name__).lower()) from None


def decode(data: bytes, size: int, levels: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Return the picture in an image file's bytes: (H, W, 3) uint8 RGB, upright, on white.

    `levels` are the values shown as black and as white, by depth. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size
    where that is no smaller than `size`.

    Raises:
        Refused: it cannot be read, or not exactly as in training.
    """
    if not data:
        raise Refused("empty file")
    kind = next((name for signature, name in _SIGNATURES.items() if re.match(signature, data, re.DOTALL)), "")
    if not kind:
        raise Refused("not a JPEG, PNG, WebP or BMP file: convert it to PNG")
    try:
        header = _PARSERS[kind](data)
    except (struct.error, IndexError, ValueError, zlib.error):
        raise Refused(f"truncated {kind}") from None
    if header.width < 1 or header.height < 1:
        raise Refused(f"corrupt {kind}")
    if header.width * header.height > MAX_PIXELS:
        raise Refused(f"too large: {header.width}x{header.height}")
    pixels = _decode_jpeg(data, header, size) if kind == "JPEG" else _imdecode(data, cv2.IMREAD_UNCHANGED, kind)
    return UPRIGHT[header.orientation](_to_rgb(_to_8_bits(pixels, levels), header))


def _imdecode(data: bytes, flags: int, kind: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise Refused(f"truncated or corrupt {kind}")
    return pixels


def _decode_jpeg(data: bytes, header: Header, size: int) -> np.ndarray:
    """Return (H, W, 3) uint8 BGR; missing pixels, which libjpeg fills with grey, depend on what follows the data."""
    spare = min(header.width, header.height) // size
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    scale = next((flags[scale] for scale in flags if spare >= scale), cv2.IMREAD_COLOR)
    end = data.rindex(b"\xff\xd9")
    small = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    with _library_messages():
        first, second = (
            _imdecode(data[:end] + filling * 16 + b"\xff\xd9", small, "JPEG") for filling in (b"\x00", b"\x55")
        )
    if not np.array_equal(first, second):
        raise Refused("truncated JPEG")
    with _library_messages() as messages:
        pixels = _imdecode(data, scale | cv2.IMREAD_IGNORE_ORIENTATION, "JPEG")
    if any(messages):
        raise Refused("truncated or corrupt JPEG")
    return pixels


@contextlib.contextmanager
def _library_messages() -> Iterator[list[bytes]]:
    """Collect what libjpeg writes to stderr inside the `with` block: the only way it tells OpenCV of damage."""
    messages: list[bytes] = []
    with _DECODING, tempfile.TemporaryFile() as file:
        try:
            stderr = os.dup(2)
        except OSError:  # closed: there is nowhere to write to
            yield messages
            return
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            messages.append(file.read())


def _parse_jpeg(data: bytes) -> Header:
    """Return the header of a JPEG file, whose scans must be complete."""
    position, frame, exif, parts = 2, (8, 0, 0, 3, 0xC0), b"", dict[int, bytes]()
    while data[position + 1] != 0xDA:  # start of scan: only compressed pixels from there on
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        if data[position] != 0xFF or marker == 0xFF:
            raise Refused("unusual JPEG header: save it again")
        if marker in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
            frame = (*struct.unpack_from(">BHHB", data, position + 4), marker)
        elif marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", position + 4):
            exif = data[position + 10 : position + 2 + length]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", position + 4):
            parts.setdefault(data[position + 16], data[position + 18 : position + 2 + length])
        position += 2 + length
    bits, height, width, channels, coding = frame
    if bits != 8 or channels not in (1, 3) or coding not in (0xC0, 0xC1, 0xC2):
        raise Refused(f"JPEG with {bits} bits, {channels} channels, coding {coding:X}: save it as PNG")
    _check_scans(data, position, channels, is_progressive=coding == 0xC2)
    profile = b"".join(parts[number] for number in sorted(parts))
    return Header("JPEG", width, height, exif_orientation(exif), profile)


def _check_scans(data: bytes, position: int, channels: int, is_progressive: bool) -> None:
    """Raise Refused if bits of the picture are missing: a scan, a block of zeros, or the end of the file."""
    missing: dict[int, np.ndarray] = {}  # component -> lowest bits of its 64 coefficients that are still to come
    while True:
        length, count = struct.unpack_from(">HB", data, position + 2)
        components = data[position + 5 : position + 5 + 2 * count : 2]
        first, last, bits = struct.unpack_from("BBB", data, position + 5 + 2 * count)
        for component in components:
            left = missing.setdefault(component, np.full(64, 99))
            if is_progressive:
                left[first : last + 1] = bits & 15
            else:
                left[:] = 0
        start = position + 2 + length
        found = _MARKER.search(data, start)
        if not found or _HOLE in data[start : found.start()]:
            raise Refused("truncated JPEG")
        marker, position = data[found.end() - 1], found.end() - 2
        while marker in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)):  # segments between two scans
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
            marker = data[position + 1]
        if marker == 0xD9:
            break
        if marker != 0xDA:
            raise Refused("truncated or corrupt JPEG")
    if len(missing) < channels or any(left.any() for left in missing.values()):
        raise Refused("truncated JPEG")
    if data.rindex(b"\xff\xd9") != position:
        raise Refused("data after the end of the JPEG picture: save it again")


def _parse_png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    position, kind, chunks = 8, b"", dict[bytes, bytes]()
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise Refused("PNG with a bad checksum")
        if kind != b"IDAT":
            chunks.setdefault(kind, data[position + 8 : end - 4])
        position = end
    if b"acTL" in chunks or (b"tRNS" in chunks and colour == 0):
        raise Refused("animated PNG, or a transparent grey: save it as a plain PNG")
    profile, gamma = b"", 0
    if b"cICP" not in chunks and b"iCCP" in chunks:
        profile = zlib.decompress(chunks[b"iCCP"].partition(b"\0")[2][1:])
    elif not chunks.keys() & {b"cICP", b"sRGB"} and len(chunks.get(b"gAMA", b"")) == 4:
        (gamma,) = struct.unpack(">I", chunks[b"gAMA"])
    is_usual = gamma == 0 or abs(gamma / _SRGB_GAMMA - 1) < 0.05
    orientation = exif_orientation(chunks.get(b"eXIf", b""))
    return Header("PNG", width, height * (depth // 8 or 1), orientation, profile, 0.0 if is_usual else gamma / 100_000)


def _parse_webp(data: bytes) -> Header:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    position, header = 12, Header("WebP", 1, 1)
    while position < end:
        kind, length = struct.unpack_from("<4sI", data, position)
        content = data[position + 8 : position + 8 + length]
        if kind == b"ANMF":
            raise Refused("animated WebP: save it as PNG")
        if kind == b"VP8L" and _HOLE in content:
            raise Refused("WebP with a run of zeros, a flat area or damage: save it as PNG")
        if kind == b"VP8X":
            width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (4, 7))
            header = replace(header, width=width, height=height)
        elif kind == b"EXIF":
            header = replace(header, orientation=exif_orientation(content))
        elif kind == b"ICCP":
            header = replace(header, profile=content)
        position += 8 + length + (length & 1)
    if end > len(data):
        raise Refused("truncated WebP")
    return header


def _parse_bmp(data: bytes) -> Header:
    start, header_bytes, width, height = struct.unpack_from("<IIii", data, 10)
    depth, compression = struct.unpack_from("<HI", data, 28)
    if header_bytes < 40 or depth != 24 or compression or data[70:74] == b"DEBM":
        raise Refused("BMP other than 24 bits: save it as PNG")
    if len(data) < start + (width * 3 + 3) // 4 * 4 * abs(height):
        raise Refused("truncated BMP")
    return Header("BMP", width, abs(height))


_SIGNATURES = {rb"\xff\xd8\xff": "JPEG", rb"\x89PNG\r\n\x1a\n": "PNG", rb"RIFF....WEBP": "WebP", rb"BM": "BMP"}
_PARSERS = {"JPEG": _parse_jpeg, "PNG": _parse_png, "WebP": _parse_webp, "BMP": _parse_bmp}
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation -> the pixels turned upright
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation 1 to 8; 1 where there is none or the block is damaged, as viewers do."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (number,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 274 and kind in (3, 4):
                value = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _to_8_bits(pixels: np.ndarray, levels: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Return uint8 pixels of the same shape; which values are black and white was decided for all training images."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.name not in levels:
        raise Refused(f"{8 * pixels.dtype.itemsize}-bit values, which the model was not trained on")
    black, white = levels[pixels.dtype.name]

    def scaled(values: np.ndarray, black: float, span: float) -> np.ndarray:
        return np.rint(((values - black) * (255 / span)).clip(0, 255)).astype(np.uint8)

    if pixels.ndim == 3 and pixels.shape[2] == 4:
        colours, alpha = scaled(pixels[:, :, :3].astype(float), black, white - black), pixels[:, :, 3].astype(float)
        return np.dstack([colours, scaled(alpha, 0.0, 65535.0)])
    return scaled(pixels.astype(float), black, white - black)


def _to_rgb(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Return (H, W, 3) sRGB for uint8 grey, BGR or BGRA, transparency laid on white."""
    alpha = pixels[:, :, 3] if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if alpha is None else cv2.COLOR_BGRA2RGB)
    if header.profile:
        pixels = to_srgb(pixels, header.profile)
    elif header.gamma:
        curve = np.round(255 * (np.arange(256) / 255) ** (1 / (2.2 * header.gamma))).astype(np.uint8)
        pixels = curve[pixels]
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if alpha is None:
        return pixels
    opacity = cv2.cvtColor(np.ascontiguousarray(alpha), cv2.COLOR_GRAY2RGB)
    return cv2.add(cv2.multiply(pixels, opacity, scale=1 / 255), 255 - opacity)


def resize(pixels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Return `pixels` at `size` (width, height): averaged along a shrinking side, interpolated along a growing one.

    "stretch" uses the whole picture, "crop" its centre; "pad" keeps its proportions and fills the rest with its mean.
    """
    height, width = pixels.shape[:2]
    if fit == "crop":
        rows, columns = _centre((width, height), size)
        return resize(np.ascontiguousarray(pixels[rows, columns]), size, "stretch")
    if fit == "pad":
        square = np.full((size[1], size[0], 3), np.rint(pixels.reshape(-1, 3).mean(axis=0)), np.uint8)
        rows, columns = _centre(size, (width, height))
        square[rows, columns] = resize(pixels, (columns.stop - columns.start, rows.stop - rows.start), "stretch")
        return square
    shrunk = min(width, size[0]), min(height, size[1])
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    return pixels if shrunk == size else cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def _centre(size: tuple[int, int], proportions: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of the largest centred part, with these `proportions` (width, height), of `size`."""
    scale = min(size[0] / proportions[0], size[1] / proportions[1])
    width, height = (max(1, round(side * scale)) for side in proportions)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return slice(top, top + height), slice(left, left + width)


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """Return uint8 RGB pixels in sRGB, from the colour space of an ICC profile with a matrix and three curves.

    Relative colorimetric: values -> curves -> matrix to XYZ (D50) -> linear sRGB -> sRGB. ICC.1:2022, annex F.3.

    Raises:
        Refused: the profile is damaged, of another kind, or not for RGB pixels.
    """
    try:
        tags = {profile[at : at + 4]: struct.unpack_from(">II", profile, at + 4)
                for at in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12)}  # fmt: skip
        if profile[16:20] != b"RGB " or pixels.ndim == 2 or b"A2B0" in tags:
            raise Refused("colour profile that is not a matrix for RGB: convert the image to sRGB")
        curves = np.stack([_curve(profile[tags[name][0] :]) for name in (b"rTRC", b"gTRC", b"bTRC")], axis=1)
        matrix = np.array([struct.unpack_from(">iii", profile, tags[n][0] + 8) for n in (b"rXYZ", b"gXYZ", b"bXYZ")])
    except (struct.error, KeyError, IndexError, ValueError):
        raise Refused("colour profile unreadable: convert the image to sRGB") from None

    def convert(values: np.ndarray) -> np.ndarray:
        linear = (curves[values, [0, 1, 2]] @ (matrix / 65536) @ _XYZ_TO_SRGB).clip(0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        return np.rint(255 * encoded).astype(np.uint8)

    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    if np.abs(convert(grid).astype(int) - grid).max() <= 2:  # sRGB itself
        return pixels
    return np.concatenate([convert(row[None]) for row in pixels])  # row by row: the floats take 24 bytes a pixel


# XYZ (D50) -> linear sRGB, for row vectors: the inverse of sRGB's primaries adapted by Bradford.
_XYZ_TO_SRGB = np.linalg.inv(
    np.array([[0.4360657, 0.2224884, 0.0139160], [0.3851471, 0.7168732, 0.0970764], [0.1430664, 0.0606079, 0.7140961]])
)


def _curve(tag: bytes) -> np.ndarray:
    """Return the curve of one channel, (256,) float64 from 0 to 1: `curv` or `para` of ICC.1:2022, 10.6 and 10.18."""
    x = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return x
        points = np.frombuffer(tag, ">u2", count, 12).astype(float)
        return x ** (points[0] / 256) if count == 1 else np.interp(x, np.linspace(0, 1, count), points / 65535)
    (kind,) = struct.unpack_from(">H", tag, 8)
    if tag[:4] != b"para" or kind > 4:
        raise ValueError("not a curve")
    values = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = values + [1.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(values) - 1 :]
    if kind in (1, 2):  # y = (ax + b)^g + c where x >= -b/a, else c
        return np.where(x >= -b / a, np.maximum(a * x + b, 0) ** g + (c if kind == 2 else 0), c if kind == 2 else 0)
    return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
