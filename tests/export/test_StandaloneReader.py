"""The reader of the exported script gives the pixels that the product's reader gives, or refuses the file."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from MLPipeline.decoding.Levels import Level, Levels
from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image
from MLPipeline.export.StandaloneReader import Refused, decode, resize
from tests.support.format_cases import (
    ADOBE_RGB,
    bmp_with_masks,
    cmyk_profile,
    grey_profile,
    png,
    tiff,
    wide_gamut_profile,
)
from tests.support.paths import INPUTS
from tests.support.picture_cases import png_chunk

SIZE = 32
LEVELS = {"uint16": (100.0, 40000.0)}
FITS = ("stretch", "crop", "pad")


def photograph(height: int = 90, width: int = 140, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return a smooth picture with detail, (H, W, channels) uint8."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (6, 9, channels), np.uint8)
    planes = [
        Image.fromarray(small[:, :, c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)
    ]
    smooth = np.dstack([np.asarray(plane) for plane in planes]).astype(int)
    return (smooth + draw.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def answered() -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, file, largest difference of a pixel) of files that must be read."""
    picture, alpha, grey = photograph(), photograph(channels=4), photograph(channels=1)
    deep = (photograph(channels=1).astype(np.uint16) * 257)[:, :, 0]
    for size in (31, 64, 65, 127, 128, 300, 513):
        yield f"jpeg-{size}", saved(photograph(size, size + 3), "JPEG", quality=90), 0
    for orientation in range(1, 9):
        yield f"jpeg-turned-{orientation}", saved(picture, "JPEG", exif=turned(orientation)), 0
        yield f"png-turned-{orientation}", saved(picture, "PNG", exif=turned(orientation)), 0
        yield f"webp-turned-{orientation}", saved(picture, "WEBP", lossless=True, exif=turned(orientation)), 0
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\x92\x86\0\x07\0\0\xea\x60\0\x01\0\0"
    yield "png-turned-prefix-damaged-tag", png(picture, 8, 2, png_chunk(b"eXIf", exif)), 0
    for sampling in (0, 1, 2):
        yield f"jpeg-sampling-{sampling}", saved(picture, "JPEG", subsampling=sampling), 0
    yield "jpeg-grey", saved(grey, "JPEG"), 0
    yield "jpeg-progressive", saved(picture, "JPEG", progressive=True), 0
    yield "jpeg-grey-progressive", saved(grey, "JPEG", progressive=True), 0
    yield "jpeg-restarts", saved(picture, "JPEG", restart_marker_blocks=4), 0
    yield "jpeg-srgb", saved(picture, "JPEG", icc_profile=srgb_profile()), 0
    yield "jpeg-p3", saved(picture, "JPEG", icc_profile=wide_gamut_profile()), 1
    yield "png-adobe-rgb", saved(picture, "PNG", icc_profile=wide_gamut_profile(ADOBE_RGB)), 1
    yield "png", saved(picture, "PNG"), 0
    yield "png-grey", saved(grey, "PNG"), 0
    yield "png-alpha", saved(alpha, "PNG"), 0
    yield "png-grey-alpha", saved(photograph(channels=2), "PNG"), 0
    yield "png-palette", saved(np.asarray(Image.fromarray(picture).quantize(16).convert("RGB")), "PNG"), 0
    palette = io.BytesIO()
    Image.fromarray(picture).quantize(16).save(palette, "PNG", transparency=bytes([0, 90] + [255] * 14))
    yield "png-palette-alpha", palette.getvalue(), 0
    for bits in (1, 2, 4):
        yield f"png-grey-{bits}", png(grey >> (8 - bits), bits, 0), 0
    yield "png-interlaced", png(picture, 8, 2, interlaced=True), 0
    yield "png-16", saved(deep, "PNG"), 0
    yield "png-16-rgb", png(picture.astype(np.uint16) * 200, 16, 2), 0
    yield "png-16-alpha", png(alpha.astype(np.uint16) * 200, 16, 6), 0
    yield "png-gamma", png(picture, 8, 2, png_chunk(b"gAMA", (100_000).to_bytes(4, "big"))), 0
    yield "png-usual-gamma", png(picture, 8, 2, png_chunk(b"gAMA", (45455).to_bytes(4, "big"))), 0
    yield "webp", saved(picture, "WEBP", quality=80), 0
    yield "webp-alpha", saved(alpha, "WEBP", lossless=True), 0
    yield "bmp", saved(picture, "BMP"), 0


def refused() -> Iterator[tuple[str, bytes]]:
    """Yield (name, file) of files that OpenCV may read, but not as the product does."""
    picture = photograph()
    jpeg = saved(picture, "JPEG")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    yield "empty", b""
    yield "text", b"no image at all"
    yield "jpeg-cut", saved(noise, "JPEG")[:-2000]
    yield "jpeg-cut-and-closed", saved(noise, "JPEG")[:-2000] + b"\xff\xd9"
    yield "jpeg-then-another", jpeg[:-900] + saved(noise, "JPEG")
    progressive = saved(noise, "JPEG", progressive=True)
    yield "jpeg-lacks-scans", progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9"
    yield "jpeg-lacks-bytes", jpeg[: len(jpeg) // 2] + jpeg[len(jpeg) // 2 + 150 :]
    yield "jpeg-hole", jpeg[:900] + bytes(200) + jpeg[1100:]
    yield "jpeg-cmyk", saved_as("CMYK", picture)
    yield "jpeg-cmyk-profile", saved_as("CMYK", picture, icc_profile=cmyk_profile())
    yield "jpeg-grey-profile", saved(photograph(channels=1), "JPEG", icc_profile=grey_profile(1.0))
    yield "png-cut", saved(picture, "PNG")[:-500]
    damaged = bytearray(saved(picture, "PNG"))
    damaged[200] ^= 255
    yield "png-damaged", bytes(damaged)
    yield "png-transparent-grey", png(photograph(channels=1), 8, 0, png_chunk(b"tRNS", b"\0\x80"))
    yield "png-unreadable-profile", png(picture, 8, 2, png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"none" * 50)))
    yield "webp-cut", saved(picture, "WEBP")[:-200]
    frames = [Image.fromarray(photograph(seed=seed)) for seed in (1, 2)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield f"{kind}-animated", buffer.getvalue()
    yield "tiff", tiff(picture)
    yield "tiff-16", tiff(picture.astype(np.uint16))
    yield "avif", saved(picture, "AVIF")
    yield "bmp-masks", bmp_with_masks(picture, (0xFF, 0xFF00, 0xFF0000))
    yield "bmp-cut", saved(picture, "BMP")[:-500]


def saved_as(mode: str, pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_product(data: bytes, fit: str = "stretch") -> np.ndarray:
    levels = Levels({depth: Level(*pair) for depth, pair in LEVELS.items()})
    return decode_image(data, (SIZE, SIZE), levels, fit).pixels


@pytest.mark.parametrize(("data", "allowed"), [pytest.param(*rest, id=name) for name, *rest in answered()])
def test_what_it_reads_is_what_the_product_reads(data: bytes, allowed: int) -> None:
    for fit in FITS:
        pixels = resize(decode(data, SIZE, LEVELS), (SIZE, SIZE), fit)
        assert pixels.dtype == np.uint8 and pixels.shape == (SIZE, SIZE, 3)
        assert np.abs(pixels.astype(int) - by_product(data, fit)).max() <= allowed


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in refused()])
def test_what_opencv_cannot_read_exactly_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match=r"\w"):
        decode(data, SIZE, LEVELS)


def test_a_depth_without_a_level_is_refused() -> None:
    data = png(photograph().astype(np.uint16) * 200, 16, 2)
    with pytest.raises(Refused, match="16-bit values, which the model was not trained on"):
        decode(data, SIZE, {})


@pytest.mark.skipif(not (INPUTS / "pixels").is_dir(), reason="shared/inputs is not here")
def test_the_pictures_that_once_went_wrong_are_equal_or_refused() -> None:
    for path in sorted((INPUTS / "pixels").iterdir()):
        assert_equal_or_refused(path)


def assert_equal_or_refused(path: Path) -> None:
    data = path.read_bytes()
    try:
        pixels = resize(decode(data, SIZE, LEVELS), (SIZE, SIZE), "stretch")
    except Refused:
        return
    try:
        expected = by_product(data)
    except UnreadableImage as error:
        raise AssertionError(f"{path.name} is refused by the product: {error.reason}") from error
    assert np.abs(pixels.astype(int) - expected).max() <= 1, path.name
