"""One image file in, one upright 8-bit RGB picture out, or a reason why not: the only door for pixels.

    file --read_bytes--> bytes --read_header--> kind, size --cv2.imdecode--> pixels --8 bit, RGB, upright--> Picture

Nothing here can block, crash the process or fill the memory, whatever the file holds. `cv2.imread` could: it dies on a
name that is not valid UTF-8. Safe to call from several threads at once; OpenCV decodes outside Python's lock.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from MLPipeline.images.ImageHeader import MAX_PIXELS, ImageHeader, UnreadableImage, read_header
from MLPipeline.images.StoredPixels import Alpha, StoredPixels

# OpenCV reads this once, while it is imported; a value that is no number would abort the process.
if not os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", "").isdigit():
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
import cv2  # noqa: E402

# What is wrong with a file we say ourselves, with its name. The first is OpenCV 4, the second OpenCV 5.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)
cv2.setNumThreads(1)  # several images at once beat several threads on one, and a forked worker has no thread pool

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
]

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif".split())
FOREIGN_SUFFIXES = frozenset(  # images too, but not for us: to be listed as skipped, with "convert to JPEG or PNG"
    ".heic .heif .svg .pdf .jxl .psd .jp2 .j2k .ico .tga .eps .ai .xcf .exr .hdr .ppm .pgm .pbm .dcm .dicom "
    ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split()
)
DECODER = f"OpenCV {cv2.__version__}"  # pixels may differ from one version to the next
MAX_FILE_BYTES = 512 * 2**20
END_OF_JPEG = b"\xff\xd9"
# Where white may lie in pixels of more than 8 bits: cameras and scanners put 10, 12 or 14 bits into 16.
WHITE_LEVELS = [255.0, 1023.0, 4095.0, 16383.0, 65535.0]
# The bits that say "at 1/8, 1/4, 1/2 of the size"; IMREAD_REDUCED_COLOR_8 also says BGR, and RGB beside it fails.
REDUCED_FLAGS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
TURNED_BY_DECODER = {"JPEG", "TIFF"}  # whatever it is asked
# EXIF orientation -> the pixels turned upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@dataclass(frozen=True)
class Picture:
    """One decoded image."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB, upright
    header: ImageHeader
    note: str = ""  # what the user should know, such as "end marker missing" or "first of 12 frames"
    channels: int = 3  # as stored: 1 grey, 3 colour or palette, 4 with alpha or CMYK
    is_transparent: bool = False  # some pixels were laid on white


def read_image(path: Path, size: tuple[int, int] | None = None) -> Picture:
    """Return the picture in the file `path`, resized to `size` (width, height) if given.

    Raises:
        UnreadableImage: see `read_bytes` and `decode_image`.
    """
    return decode_image(read_bytes(path), size)


def read_bytes(path: Path) -> bytes:
    """Return the content of the regular file `path`.

    Raises:
        UnreadableImage: a folder, FIFO or device (also behind a link), larger than `MAX_FILE_BYTES`, or not to be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block, /dev/zero would never end
            raise UnreadableImage("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"too large: {status.st_size / 2**20:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage((error.strerror or type(error).__name__).lower()) from None


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> Picture:
    """Return the picture in an image file's bytes, resized to `size` (width, height) if given; proportions may change.

    EXIF orientation is applied, transparency laid on white, more than 8 bits brought to 8; of several frames the first.

    Raises:
        UnreadableImage: not an image we decode, truncated, corrupt, or too large.
    """
    picture = decode_for(data, size)
    return picture if size is None else replace(picture, pixels=resize(picture.pixels, size))


def decode_for(data: bytes, size: tuple[int, int] | None) -> Picture:
    """Return the picture as `decode_image` has it before resizing: a large JPEG is decoded no larger than it needs.

    Raises:
        UnreadableImage: see `decode_image`.
    """
    header = read_header(data)
    return _decode_jpeg(data, header, size) if header.kind == "JPEG" else _decode_other(data, header)


def decodes_alike(header: ImageHeader, size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether `decode_for` gives the same pixels for both sizes."""
    return header.kind != "JPEG" or _jpeg_flag(header, size) == _jpeg_flag(header, other)


def read_thumbnail(path: Path, side: int) -> np.ndarray:
    """Return the picture in `path` in its own proportions, (H, W, 3) uint8 RGB, neither side longer than `side`.

    Raises:
        UnreadableImage: see `read_bytes` and `decode_image`.
    """
    picture = decode_for(read_bytes(path), (side, side))
    height, width = picture.pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture.pixels, (max(1, round(width * scale)), max(1, round(height * scale))))


def _decode_jpeg(data: bytes, header: ImageHeader, size: tuple[int, int] | None) -> Picture:
    if data.endswith(END_OF_JPEG) or data.rfind(END_OF_JPEG, header.body) >= 0:  # phones write trailers behind it
        return Picture(_imdecode(data, _jpeg_flag(header, size), "JPEG"), header, channels=header.channels)
    pixels = _decode_unended_jpeg(data.removesuffix(b"\xff"), header)
    return Picture(pixels, header, "end marker missing", header.channels)


def _decode_unended_jpeg(data: bytes, header: ImageHeader) -> np.ndarray:
    """Return the RGB pixels of a JPEG that lacks only its end marker. Raises UnreadableImage if pixels are missing too.

    They are if filling bytes in the marker's place are taken for pixels: then the picture changes with the filling.
    """
    cut_between_scans = data.rfind(b"\xff\xc4") > data.rfind(b"\xff\xda")  # in the code tables of the next scan
    if cut_between_scans or data.endswith(bytes(64)):  # zeros: room that a broken download had reserved
        raise UnreadableImage("truncated JPEG")
    end = END_OF_JPEG if header.progressive else b""  # else libjpeg would complain on the console
    fillings = (b"\x00" * 16, b"\x55" * 16)
    first, second = (_imdecode(data + filling + end, cv2.IMREAD_COLOR_RGB, "JPEG") for filling in fillings)
    if not np.array_equal(first, second):
        raise UnreadableImage("truncated JPEG")
    return first


def _jpeg_flag(header: ImageHeader, size: tuple[int, int] | None) -> int:
    """Return the flag that decodes at 1/2, 1/4 or 1/8 of the size where that is still no smaller than `size`.

    Measured on 400 x 533 photos, mean difference from the full decode, of 255: 1.7 at 200 x 200, 1.4 at 128, 3.2 at 96,
    2.3 at 64. A bilinear resize of the full decode, which is common, differs by 1.4, 3.5, 4.7 and 6.4.
    """
    if size is not None:
        spare = min(header.width, header.height) // max(size)  # shortest by longest side: it may yet be turned
        for scale, flag in REDUCED_FLAGS.items():
            if spare >= scale:
                return flag | cv2.IMREAD_COLOR_RGB
    return cv2.IMREAD_COLOR_RGB


def _decode_other(data: bytes, header: ImageHeader) -> Picture:
    stored = _decode_stored(data, header)
    pixels, note = to_8_bits(stored)
    is_transparent = stored.alpha != "none" and bool((pixels[:, :, 3] < 255).any())
    if header.transparent_grey is not None and pixels.ndim == 2:
        is_key = stored.pixels == header.transparent_grey
        pixels[is_key] = 255
        is_transparent = bool(is_key.any())
    pixels = _to_rgb(pixels, premultiplied=stored.alpha == "premultiplied")
    frames = f"first of {header.frames} {'pages' if header.kind == 'TIFF' else 'frames'}" if header.frames > 1 else ""
    note = "; ".join(filter(None, (frames, stored.note, note)))
    upright = pixels if header.kind in TURNED_BY_DECODER else np.ascontiguousarray(UPRIGHT[header.orientation](pixels))
    return Picture(upright, header, note, 1 if stored.pixels.ndim == 2 else stored.pixels.shape[2], is_transparent)


def _decode_stored(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the pixels of any file but a JPEG, in RGB order and at the depth of the file."""
    pixels = _imdecode(data, cv2.IMREAD_UNCHANGED, header.kind)
    bits = pixels.dtype.itemsize * 8
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 3, 4):
        raise UnreadableImage(f"{channels} channels")
    if channels == 1:
        return StoredPixels(pixels, bits, header)
    pixels = np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][:channels]]) if bits > 16 else _swap_red_and_blue(pixels)
    # The decoder multiplies colour by alpha in 8-bit TIFF and nowhere else.
    alpha: Alpha = "premultiplied" if header.kind == "TIFF" and pixels.dtype == np.uint8 else "straight"
    return StoredPixels(pixels, bits, header, alpha if channels == 4 else "none")


def _swap_red_and_blue(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _imdecode(data: bytes, flags: int, kind: str) -> np.ndarray:
    """Return OpenCV's pixels: (H, W) or (H, W, channels), of the file's own depth if `flags` allow it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnreadableImage(f"truncated or corrupt {kind}")
    return pixels


def to_8_bits(stored: StoredPixels) -> tuple[np.ndarray, str]:
    """Return the pixels as uint8, of the same shape, and a note where the level of white had to be guessed."""
    return (stored.pixels, "") if stored.pixels.dtype == np.uint8 else _to_8_bits(stored.pixels)


def _to_8_bits(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Return `pixels` as uint8, and a note where the level of white had to be guessed.

    White is the full range; if the brightest pixel is under a quarter of that, the depth of the sensor that explains
    it (10, 12 or 14 bits); for still darker or brighter pixels the brightest itself. None comes out near-black.
    """
    if np.issubdtype(pixels.dtype, np.floating):
        full_range, whites = 1.0, [1.0, *WHITE_LEVELS]
        finite = pixels[np.isfinite(pixels)]
        if not finite.size:
            raise UnreadableImage("not a number in any pixel")
        pixels = np.nan_to_num(pixels, nan=finite.min(), posinf=finite.max(), neginf=finite.min())
    else:
        full_range, whites = float(np.iinfo(pixels.dtype).max), WHITE_LEVELS
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = pixels if channels < 4 else pixels[:, :, :3]
    black, brightest = min(0.0, float(colour.min())), float(colour.max())
    white = next((level for level in whites if level / 4 <= brightest <= level), brightest or whites[0])
    scale = 255 / (white - black or 1.0)
    scaled = cv2.convertScaleAbs(colour, alpha=scale, beta=-black * scale)
    if channels == 4:
        scaled = np.dstack([scaled, cv2.convertScaleAbs(pixels[:, :, 3], alpha=255 / full_range)])
    exact = black == 0 and white == full_range
    return scaled, "" if exact else f"{pixels.dtype} pixels: {black:g} shown as black, {white:g} as white"


def _to_rgb(pixels: np.ndarray, premultiplied: bool) -> np.ndarray:
    """Return (H, W, 3) RGB for uint8 grey, RGB or RGBA; what is transparent becomes white."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if channels == 3:
        return pixels
    colour = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
    alpha = cv2.cvtColor(pixels[:, :, 3], cv2.COLOR_GRAY2RGB)
    return cv2.add(colour if premultiplied else cv2.multiply(colour, alpha, scale=1 / 255), 255 - alpha)


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return `pixels` at `size` (width, height): averaged along a shrinking side, interpolated along a growing one."""
    height, width = pixels.shape[:2]
    shrunk = min(width, size[0]), min(height, size[1])
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    return pixels if shrunk == size else cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
