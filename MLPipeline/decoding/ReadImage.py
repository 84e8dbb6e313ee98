"""One image file in, one upright 8-bit RGB picture out, or a reason why not: the only way to the pixels of a file.

    file --read_bytes--> bytes --read_header--> kind, size --decoder of the kind--> StoredPixels
         --to_8_bits, sRGB, on white, upright--> Picture

Nothing here can block, crash the process or fill the memory, whatever the file holds, and no decoder writes to the
console. Safe to call from several threads at once; the decoders work outside Python's lock. Which format is read by
what, and with which result: docs/formats.md.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg

from MLPipeline.decoding.Bmp import decode_bmp
from MLPipeline.decoding.ColourProfile import from_gamma, to_srgb
from MLPipeline.decoding.Fit import STRETCH, matching_parts
from MLPipeline.decoding.Frames import decode_avif, decode_first_frame
from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.Jpeg import decode_jpeg, reduction
from MLPipeline.decoding.Levels import Levels, depth_of, to_8_bits
from MLPipeline.decoding.OpenCv import cv2
from MLPipeline.decoding.Png import decode_png
from MLPipeline.decoding.ReadHeader import read_header
from MLPipeline.decoding.StoredPixels import StoredPixels
from MLPipeline.decoding.Tiff import decode_tiff
from MLPipeline.Errors import is_out_of_memory
from MLPipeline.files.ErrnoHints import is_shortage, unreadable

for _name in ("imagecodecs", "tifffile", "PIL"):  # the reader reports what is wrong, with the name of the file
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

__all__ = [
    "FOREIGN_SUFFIXES",
    "IMAGE_SUFFIXES",
    "Picture",
    "UnreadableImage",
    "decode_for",
    "decode_image",
    "decodes_alike",
    "read_bytes",
    "read_image",
    "read_thumbnail",
    "resize",
    "to_8_bits",
    "to_picture",
]

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif".split())
FOREIGN_SUFFIXES = frozenset(  # image formats that are not decoded: listed as skipped, with "convert to JPEG or PNG"
    ".heic .heif .svg .pdf .jxl .psd .jp2 .j2k .ico .tga .eps .ai .xcf .exr .hdr .ppm .pgm .pbm .dcm .dicom "
    ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split()
)
# Part of the names of caches, because pixels may differ. Increase the number when the same versions give other pixels.
DECODER = f"3 simplejpeg {simplejpeg.__version__} OpenCV {cv2.__version__}"
MAX_FILE_BYTES = 512 * 2**20
DECODERS: dict[str, Callable[[bytes, ImageHeader], StoredPixels]] = {
    "PNG": decode_png,
    "WebP": decode_first_frame,
    "GIF": decode_first_frame,
    "TIFF": decode_tiff,
    "BMP": decode_bmp,
    "AVIF": decode_avif,
}
# EXIF orientation -> the pixels turned upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True)
class Picture:
    """One decoded image."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB, upright
    header: ImageHeader
    note: str = ""  # what the user should know, such as "end marker missing" or "first of 12 frames"
    channels: int = 3  # as stored: 1 grey, 3 colour or palette, 4 with alpha or CMYK
    is_transparent: bool = False  # some pixels were laid on white
    stored: StoredPixels | None = None  # what was brought to 8 bits; None where there were no more


def read_image(
    path: Path, size: tuple[int, int] | None = None, levels: Levels | None = None, fit: str = STRETCH
) -> Picture:
    """Return the picture in the file `path`; see `decode_image`.

    Raises:
        UnreadableImage: see `read_bytes` and `decode_image`.
    """
    return decode_image(read_bytes(path), size, levels, fit)


def read_bytes(path: Path) -> bytes:
    """Return the content of the regular file `path`.

    Raises:
        UnreadableImage: a folder, FIFO or device (also behind a link), larger than `MAX_FILE_BYTES`, or not to be read.
        ResourceError: there is a lack that concerns all files, such as too many open files.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block, /dev/zero would never end
            raise UnreadableImage("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"too large: {status.st_size / 2**20:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        if is_shortage(error):  # else image after image would be skipped
            raise unreadable(path, error, "Run the same command again") from error
        raise UnreadableImage((error.strerror or type(error).__name__).lower()) from None
    except ValueError:  # a null character
        raise UnreadableImage("not a possible file name") from None


def decode_image(
    data: bytes, size: tuple[int, int] | None = None, levels: Levels | None = None, fit: str = STRETCH
) -> Picture:
    """Return the picture in an image file's bytes, resized to `size` (width, height) if given.

    EXIF orientation is applied, transparency laid on white, more than 8 bits brought to 8; of several frames the first.

    Raises:
        UnreadableImage: not an image we decode, truncated, corrupt, or too large.
    """
    picture = decode_for(data, size, levels)
    return picture if size is None else replace(picture, pixels=resize(picture.pixels, size, fit))


def decode_for(data: bytes, size: tuple[int, int] | None, levels: Levels | None = None) -> Picture:
    """Return the picture as `decode_image` has it before resizing: a large JPEG is decoded no larger than it needs.

    Raises:
        UnreadableImage: see `decode_image`.
    """
    return to_picture(_decode_stored(data, read_header(data), size), levels)


def to_picture(stored: StoredPixels, levels: Levels | None = None) -> Picture:
    """Return the picture of stored pixels: in 8 bits, in sRGB, on white, upright.

    Raises:
        UnreadableImage: no value is a finite number.
    """
    header = stored.header
    pixels, depth_note = to_8_bits(stored, levels)
    pixels, is_transparent, colour_note = _to_rgb(pixels, stored)
    frames = f"first of {header.frames} {'pages' if header.kind == 'TIFF' else 'frames'}" if header.frames > 1 else ""
    note = "; ".join(filter(None, (frames, stored.note, header.note, colour_note, depth_note)))
    channels = header.channels or (1 if stored.pixels.ndim == 2 else stored.pixels.shape[2])
    deep = stored if depth_of(stored) else None
    return Picture(UPRIGHT[header.orientation](pixels), header, note, channels, is_transparent, deep)


def decodes_alike(header: ImageHeader, size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether `decode_for` gives the same pixels for both sizes."""
    return reduction(header, size) == reduction(header, other)


def read_thumbnail(path: Path, side: int, levels: Levels | None = None) -> np.ndarray:
    """Return the picture in `path` in its own proportions, (H, W, 3) uint8 RGB, neither side longer than `side`.

    Raises:
        UnreadableImage: see `read_bytes` and `decode_image`.
    """
    picture = decode_for(read_bytes(path), (side, side), levels)
    height, width = picture.pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture.pixels, (max(1, round(width * scale)), max(1, round(height * scale))))


def _decode_stored(data: bytes, header: ImageHeader, size: tuple[int, int] | None) -> StoredPixels:
    """Return the pixels at the depth of the file; a JPEG may be reduced to a size that suffices for `size`."""
    try:
        stored = decode_jpeg(data, header, size) if header.kind == "JPEG" else DECODERS[header.kind](data, header)
    except UnreadableImage:
        raise
    except Exception as error:  # each decoder has errors of its own
        if is_out_of_memory(error):
            raise
        raise UnreadableImage(f"truncated or corrupt {header.kind}") from None
    if stored.pixels.ndim == 3 and stored.pixels.shape[2] not in (3, 4):
        raise UnreadableImage(f"{stored.pixels.shape[2]} channels")
    return stored


def _to_rgb(pixels: np.ndarray, stored: StoredPixels) -> tuple[np.ndarray, bool, str]:
    """Return (H, W, 3) sRGB for uint8 grey, RGB, RGBA or CMYK, whether white shines through, and a note."""
    header, alpha, note = stored.header, None, ""
    if stored.alpha != "none":
        alpha, pixels = pixels[:, :, 3], cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    if header.profile:
        pixels, note = to_srgb(pixels, header.profile)
    elif header.gamma:
        pixels = from_gamma(pixels, header.gamma)
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if alpha is None:
        return pixels, False, note
    opacity = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
    colour = pixels if stored.alpha == "premultiplied" else cv2.multiply(pixels, opacity, scale=1 / 255)
    return cv2.add(colour, 255 - opacity), bool((alpha < 255).any()), note


def resize(pixels: np.ndarray, size: tuple[int, int], fit: str = STRETCH) -> np.ndarray:
    """Return `pixels` at `size` (width, height): averaged along a shrinking side, interpolated along a growing one.

    With `fit` "crop" or "pad" the proportions stay as they are; see `Fit`.
    """
    if fit != STRETCH:
        used, filled = matching_parts(pixels.shape, size, fit)
        mean = pixels.reshape(-1, pixels.shape[2]).mean(axis=0)
        square = np.full((size[1], size[0], pixels.shape[2]), np.rint(mean), np.uint8)
        height, width = square[filled].shape[:2]
        square[filled] = resize(np.ascontiguousarray(pixels[used]), (width, height))
        return square
    height, width = pixels.shape[:2]
    shrunk = min(width, size[0]), min(height, size[1])
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    return pixels if shrunk == size else cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
