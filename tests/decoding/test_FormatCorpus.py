"""Several hundred files, format x mode x depth x compression x byte order x orientation: read right or refused.

Every file is written by a library that does not read it in the product, or put together by hand, and compared with the
picture it was made from. `test_the_corpus_is_large` counts both kinds.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from functools import partial

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from MLPipeline.decoding.Levels import EACH_ITS_OWN
from MLPipeline.decoding.ReadImage import decode_image
from tests.support.corpus import ALPHA, GREY, ORIENTATION, PICTURE, Case, Refused, as_type, on_white, turned
from tests.support.format_cases import (
    ADOBE_RGB,
    DISPLAY_P3,
    bmp_rle,
    bmp_with_masks,
    cmyk_profile,
    grey_profile,
    hand_made_tiff,
    p3_to_srgb,
    png,
    tiff,
    wide_gamut_profile,
)  # fmt: skip
from tests.support.picture_cases import encode, png_chunk, refusal, scene
from tests.support.tiff_corpus import colour_tiffs, grey_tiffs, pillow_tiffs, rainbow, tiffs_with_more_bands

# ---- all formats -------------------------------------------------------------------------------------------


def turned_files() -> Iterator[Case]:
    for orientation in range(1, 9):
        expected = turned(PICTURE, orientation)
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for kind, options, bound in (
            ("JPEG", {"quality": 95}, 4), ("JPEG", {"quality": 95, "progressive": True}, 4), ("PNG", {}, 0),
            ("WEBP", {"lossless": True}, 0), ("TIFF", {}, 0), ("AVIF", {"quality": 95}, 4),
        ):  # fmt: skip
            write = partial(encode, PICTURE, kind, exif=exif, **options)
            yield Case(
                f"{kind.lower()}-{'progressive-' if len(options) > 1 else ''}turned-{orientation}",
                write,
                expected,
                bound,
            )
        for kind, order in itertools.product(("uint8", "uint16"), "<>"):
            tag = [(ORIENTATION, 3, 1, orientation, True)]
            write = partial(tiff, as_type(PICTURE, kind), photometric="rgb", byteorder=order, extratags=tag)
            yield Case(f"tiff-{kind}-{order}-turned-{orientation}", write, expected, peak=1)


# ---- PNG ---------------------------------------------------------------------------------------------------


def pngs() -> Iterator[Case]:
    for depth, interlaced in itertools.product((1, 2, 4, 8, 16), (False, True)):
        top = 2**depth - 1
        values = np.round(GREY / 255 * top).astype(np.uint16)
        expected, suffix = values * (255 / top), f"{depth}-bits{'-interlaced' if interlaced else ''}"
        write = partial(png, values[:, :, None], depth, 0, interlaced=interlaced)
        yield Case(f"png-grey-{suffix}", write, expected, peak=1)
        key = int(values[3, 7])
        keyed = np.where(values == key, 255.0, expected)
        chunk = png_chunk(b"tRNS", key.to_bytes(2, "big"))
        yield Case(
            f"png-grey-key-{suffix}",
            partial(png, values[:, :, None], depth, 0, chunk, interlaced=interlaced),
            keyed,
            peak=1,
        )
        if depth <= 8:
            yield from palette_pngs(depth, interlaced, suffix)
        if depth >= 8:
            yield from deep_pngs(depth, interlaced, suffix)
    for exponent in (0.45455, 1.0, 1 / 1.8):
        chunk = png_chunk(b"gAMA", round(100_000 * exponent).to_bytes(4, "big"))
        expected = 255 * (PICTURE / 255) ** (1 / (2.2 * exponent))
        yield Case(f"png-gamma-{exponent:.2f}", partial(png, PICTURE, 8, 2, chunk), expected, peak=1)
        both = (chunk, png_chunk(b"sRGB", b"\0"))
        yield Case(f"png-gamma-{exponent:.2f}-beside-srgb", partial(png, PICTURE, 8, 2, *both), PICTURE, 0)
    write = partial(png, PICTURE, 8, 2, png_chunk(b"cICP", bytes((12, 13, 0, 1))))
    yield Case("png-cicp-p3", write, PICTURE, 0, note="12/13 are not sRGB: colours left as stored")
    yield Case("png-cicp-srgb", partial(png, PICTURE, 8, 2, png_chunk(b"cICP", bytes((1, 13, 0, 1)))), PICTURE, 0)


def palette_pngs(depth: int, interlaced: bool, suffix: str) -> Iterator[Case]:
    indices, colours = np.arange(40 * 24).reshape(24, 40) % 2**depth, rainbow(2**depth)
    palette, opacity = png_chunk(b"PLTE", colours.tobytes()), np.full(2**depth, 255)
    write = partial(png, indices[:, :, None], depth, 3, palette, interlaced=interlaced)
    yield Case(f"png-palette-{suffix}", write, colours[indices], 0)
    opacity[:2] = 0, 128
    chunks = (palette, png_chunk(b"tRNS", bytes((0, 128))))
    write = partial(png, indices[:, :, None], depth, 3, *chunks, interlaced=interlaced)
    yield Case(f"png-palette-alpha-{suffix}", write, on_white(colours[indices], opacity[indices]), peak=1)


def deep_pngs(depth: int, interlaced: bool, suffix: str) -> Iterator[Case]:
    scale = 257 if depth == 16 else 1
    colour, alpha = PICTURE.astype(np.uint16) * scale, ALPHA.astype(np.uint16) * scale
    yield Case(f"png-rgb-{suffix}", partial(png, colour, depth, 2, interlaced=interlaced), PICTURE, peak=1)
    write = partial(png, np.dstack([colour, alpha]), depth, 6, interlaced=interlaced)
    yield Case(f"png-rgba-{suffix}", write, on_white(PICTURE, ALPHA), peak=2)
    write = partial(png, np.dstack([colour[:, :, 0], alpha]), depth, 4, interlaced=interlaced)
    yield Case(f"png-grey-alpha-{suffix}", write, on_white(GREY, ALPHA), peak=2)
    key = colour[5, 9]
    keyed = np.where((colour == key).all(axis=2)[:, :, None], 255, PICTURE)
    chunk = png_chunk(b"tRNS", key.astype(">u2").tobytes())
    yield Case(f"png-rgb-key-{suffix}", partial(png, colour, depth, 2, chunk, interlaced=interlaced), keyed, peak=1)


# ---- BMP, GIF, WebP, AVIF ----------------------------------------------------------------------------------


def bmps() -> Iterator[Case]:
    for order in itertools.permutations((0, 8, 16, 24), 3):
        masks = tuple(0xFF << shift for shift in order)
        for header_bytes in (0, 56, 108, 124):
            write = partial(bmp_with_masks, PICTURE, masks, 32, header_bytes=header_bytes)
            yield Case(f"bmp-32-masks-{order}-{header_bytes}", write, PICTURE, 0)
    rgba = np.dstack([PICTURE, ALPHA])
    for order in ((16, 8, 0, 24), (24, 16, 8, 0), (0, 8, 16, 24)):
        masks = tuple(0xFF << shift for shift in order)
        yield Case(f"bmp-32-alpha-{order}", partial(bmp_with_masks, rgba, masks, 32), on_white(PICTURE, ALPHA), peak=2)
        opaque = np.dstack([PICTURE, 0 * ALPHA])
        yield Case(f"bmp-32-alpha-of-zeros-{order}", partial(bmp_with_masks, opaque, masks, 32), PICTURE, 0)
    fields = {
        "555": (0x7C00, 0x3E0, 0x1F),
        "565": (0xF800, 0x7E0, 0x1F),
        "bgr-565": (0x1F, 0x7E0, 0xF800),
        "444": (0xF00, 0xF0, 0xF),
    }
    for (name, masks), top_down in itertools.product(fields.items(), (False, True)):
        write = partial(bmp_with_masks, PICTURE, masks, 16, top_down=top_down)
        yield Case(f"bmp-16-{name}-{'down' if top_down else 'up'}", write, PICTURE, 5, peak=9)
    for plain, masks in ((16, fields["555"]), (32, (0xFF0000, 0xFF00, 0xFF))):
        for top_down in (False, True):
            write = partial(bmp_with_masks, PICTURE, masks, plain, top_down=top_down, plain=True)
            yield Case(f"bmp-{plain}-no-masks-{top_down}", write, PICTURE, 3, peak=5 if plain == 16 else 0)
    bright = tuple(0xFF << shift for shift in (16, 8, 0))
    for header_bytes, is_plain in ((40, True), (40, False), (108, False)):
        options = {"plain": True} if is_plain else {"header_bytes": header_bytes} if header_bytes > 40 else {}
        data = bmp_with_masks(PICTURE, bright, 32, **options)
        unsaid = data[:10] + bytes(4) + data[14:]  # where the pixels begin
        yield Case(f"bmp-32-no-position-{header_bytes}-{is_plain}", partial(bytes, unsaid), PICTURE, 0)
    ten_bits = (0x3FF << 20, 0x3FF << 10, 0x3FF)
    yield Case("bmp-32-ten-bits", partial(bmp_with_masks, PICTURE, ten_bits, 32), PICTURE, peak=1)
    for depth in (4, 8):
        indices, colours = np.arange(40 * 24).reshape(24, 40) // 7 % 2**depth, rainbow(2**depth)
        yield Case(f"bmp-rle-{depth}", partial(bmp_rle, indices.astype(np.uint8), colours, depth), colours[indices], 0)
    for mode in ("1", "L", "P", "RGB"):
        image = Image.fromarray(PICTURE).convert(mode)
        yield Case(f"bmp-pillow-{mode}", partial(encode, image, "BMP"), np.asarray(image.convert("RGB")), 0)
    yield Case("bmp-os2", partial(os2_bmp, PICTURE), PICTURE, 0)
    yield Case("bmp-opencv", lambda: cv2.imencode(".bmp", PICTURE[:, :, ::-1])[1].tobytes(), PICTURE, 0)


def os2_bmp(pixels: np.ndarray) -> bytes:
    import struct

    rows = b"".join(row[:, ::-1].tobytes() for row in pixels[::-1])
    return b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, 40, 24, 1, 24) + rows


def framed_files() -> Iterator[Case]:
    for kind, mode in itertools.product(("GIF", "WEBP", "AVIF"), ("L", "P", "RGB", "RGBA")):
        options = {"GIF": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}[kind]
        alpha = np.where(ALPHA > 128, 255, 0).astype(np.uint8) if kind == "GIF" else ALPHA
        rgba = Image.merge("RGBA", [*Image.fromarray(PICTURE).split(), Image.fromarray(alpha)])
        image = rgba if mode == "RGBA" else Image.fromarray(PICTURE).convert(mode)
        expected = on_white(PICTURE, alpha) if mode == "RGBA" else np.asarray(image.convert("RGB"))
        bound = {"GIF": 12, "WEBP": 1, "AVIF": 3}[kind]
        yield Case(f"{kind.lower()}-{mode}", partial(encode, image, kind, **options), expected, bound)
        others = {"save_all": True, "append_images": [image.rotate(90 * number) for number in (1, 2)]}
        write = partial(encode, image, kind, **options, **others)
        yield Case(f"{kind.lower()}-{mode}-animated", write, expected, bound, note="first of 3 frames")
    for quality, method in itertools.product((50, 80, 95), (0, 6)):
        write = partial(encode, PICTURE, "WEBP", quality=quality, method=method)
        yield Case(f"webp-{quality}-{method}", write, PICTURE, 8)
    for bits, channels in itertools.product((8, 10, 12), (3, 4)):
        samples = (
            (np.dstack([PICTURE, ALPHA])[:, :, :channels] * ((2**bits - 1) / 255))
            .round()
            .astype(np.uint8 if bits == 8 else np.uint16)
        )
        write = partial(imagecodecs.avif_encode, samples, level=98, bitspersample=bits, pixelformat="444")
        yield Case(f"avif-{bits}-bits-{channels}", write, PICTURE if channels == 3 else on_white(PICTURE, ALPHA), 3)


# ---- JPEG and colour profiles ------------------------------------------------------------------------------

# `jpegtran -arithmetic` of `encode(scene(32, 24), "JPEG", quality=80)`.
ARITHMETIC = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYnKSopGR8tMC
0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCj/yQARCAAY
ACADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AMkMkXjQXPPwzjWW9dAQ0dl4w80ca9H1Aif7YV5iy0t0Gxbovjkg+hCSww
pTRNddatTVVQOEh0qZv0Hco15YUk43EiZ8aeJKe8CF4iAR3vKvTobVHZuP76v3YN3M/ZsDnP/Z
"""


def jpegs() -> Iterator[Case]:
    for quality, subsampling, progressive, mode in itertools.product(
        (70, 95), ("4:4:4", "4:2:2", "4:2:0"), (False, True), ("L", "RGB")
    ):
        options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
        image = Image.fromarray(PICTURE).convert(mode)
        write = partial(encode, image, "JPEG", **options)
        name = f"jpeg-{mode}-{quality}-{subsampling.replace(':', '')}-{'progressive' if progressive else 'baseline'}"
        yield Case(name, write, np.asarray(image.convert("RGB")), 10 if quality == 70 else 5)
    inks = Image.fromarray(PICTURE).convert("CMYK")
    yield Case("jpeg-cmyk", partial(encode, inks, "JPEG", quality=95), PICTURE, 4)
    write = partial(imagecodecs.jpeg8_encode, 255 - np.asarray(inks), 95, colorspace="cmyk", outcolorspace="ycck")
    yield Case("jpeg-ycck", write, PICTURE, 6)
    yield Case("jpeg-rgb", partial(encode, PICTURE, "JPEG", quality=95, keep_rgb=True), PICTURE, 4)
    for name, samples in (("grey", GREY), ("rgb", PICTURE)):
        deep = np.round(samples * (4095 / 255)).astype(np.uint16)
        write = partial(imagecodecs.jpeg8_encode, deep, 95, bitspersample=12)
        yield Case(f"jpeg-12-bits-{name}", write, samples, 4)
    yield Case("jpeg-lossless", partial(imagecodecs.jpeg8_encode, PICTURE, lossless=True), PICTURE, 0)
    write = partial(imagecodecs.ljpeg_encode, GREY.astype(np.uint16) * 257, bitspersample=16)
    yield Case("jpeg-lossless-16-bits", write, GREY, peak=1)
    yield Case("jpeg-arithmetic", partial(base64.b64decode, ARITHMETIC), scene(32, 24), 6)
    others = {"save_all": True, "append_images": [Image.fromarray(255 - PICTURE)]}
    yield Case("jpeg-mpo", partial(encode, PICTURE, "MPO", quality=95, **others), PICTURE, 4)
    exif = Image.Exif()
    exif[0x9286] = b"x" * 60_000  # UserComment
    yield Case("jpeg-huge-exif", partial(encode, PICTURE, "JPEG", quality=95, exif=exif), PICTURE, 4)
    for value in (0, 9, 65_535):
        exif = Image.Exif()
        exif[ORIENTATION] = value
        yield Case(f"jpeg-orientation-{value}", partial(encode, PICTURE, "JPEG", quality=95, exif=exif), PICTURE, 4)


def profiled_files() -> Iterator[Case]:
    kinds = {"JPEG": ({"quality": 98, "subsampling": 0}, 3), "PNG": ({}, 0.5), "WEBP": ({"lossless": True}, 0.5)}
    kinds |= {"TIFF": ({}, 0.5), "AVIF": ({"quality": 100, "subsampling": "4:4:4"}, 3)}
    for (kind, (options, bound)), (name, primaries) in itertools.product(
        kinds.items(), (("p3", DISPLAY_P3), ("adobe", ADOBE_RGB))
    ):
        write = partial(encode, PICTURE, kind, icc_profile=wide_gamut_profile(primaries), **options)
        yield Case(f"{kind.lower()}-profile-{name}", write, p3_to_srgb(PICTURE, primaries), bound)
    for kind, gamma in itertools.product(("JPEG", "PNG", "TIFF"), (1.0, 1.8)):
        options = {"quality": 98} if kind == "JPEG" else {}
        linear = (GREY / 255.0) ** gamma
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        write = partial(encode, Image.fromarray(GREY), kind, icc_profile=grey_profile(gamma), **options)
        yield Case(f"{kind.lower()}-profile-grey-{gamma}", write, expected, 3 if kind == "JPEG" else 0.6)
    inks = Image.fromarray(PICTURE).convert("CMYK")
    printed = imagecodecs.cms_transform(
        np.asarray(inks), cmyk_profile(), imagecodecs.cms_profile("srgb"), colorspace="cmyk", outcolorspace="rgb",
        intent=1, flags=0x2000,
    )  # fmt: skip
    assert np.abs(printed.astype(int) - PICTURE).mean() > 10
    yield Case("jpeg-profile-cmyk", partial(encode, inks, "JPEG", quality=98, icc_profile=cmyk_profile()), printed, 3)
    yield Case("tiff-profile-cmyk", partial(encode, inks, "TIFF", icc_profile=cmyk_profile()), printed, 1)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        options, bound = kinds[kind]
        note = "colour profile unreadable"
        write = partial(encode, PICTURE, kind, icc_profile=b"this is no profile" * 20, **options)
        yield Case(f"{kind.lower()}-profile-unreadable", write, PICTURE, bound, note=note)
        note = "colour profile of another colour space"
        write = partial(encode, PICTURE, kind, icc_profile=grey_profile(1.0), **options)
        yield Case(f"{kind.lower()}-profile-misfit", write, PICTURE, bound, note=note)


# ---- refused -----------------------------------------------------------------------------------------------


def refused_files() -> Iterator[Refused]:
    complex_samples = GREY.astype(np.complex64)
    yield Refused(
        "tiff-complex", partial(tiff, complex_samples, photometric="minisblack"), "TIFF with 64-bit samples of format 6"
    )
    volume = np.stack([PICTURE] * 16)
    write = partial(tiff, volume, photometric="rgb", volumetric=True, tile=(16, 16, 16))
    yield Refused("tiff-volume", write, "TIFF volume of 16 layers")
    for photometric, reason in (
        (4, "a mask"),
        (32803, "camera raw data"),
        (32844, "LogL"),
        (777, "PhotometricInterpretation 777"),
    ):
        write = partial(hand_made_tiff, GREY[:, :, None], 8, photometric)
        yield Refused(f"tiff-photometric-{photometric}", write, f"TIFF of {reason}: convert to JPEG or PNG")
    lab = np.dstack([GREY.astype(np.uint16) * 257] * 3)
    yield Refused(
        "tiff-lab-16", partial(tiff, lab, photometric="cielab"), "TIFF of 16-bit Lab colours: convert to JPEG or PNG"
    )
    write = partial(hand_made_tiff, GREY[:, :, None], 8, 1, compression=34661)
    yield Refused("tiff-jbig", write, "TIFF: ")
    write = partial(hand_made_tiff, np.dstack([GREY] * 2), 8, 2)
    yield Refused("tiff-two-of-three", write, "TIFF with 2 of 3 colours")
    for kind, options in (("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PNG", {}), ("GIF", {}), ("WEBP", {}),
                          ("BMP", {}), ("AVIF", {}), ("JPEG", {}), ("JPEG", {"progressive": True})):  # fmt: skip
        for kept in (0.3, 0.6, 0.9):
            name = f"{kind.lower()}-{'-'.join(map(str, options.values()))}-cut-at-{kept}"
            yield Refused(name, partial(cut, kind, kept, options), "truncated")


def cut(kind: str, kept: float, options: dict) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = encode(noise, kind, **options)
    return data[: int(len(data) * kept)]


RIGHT = [case for make in (grey_tiffs, colour_tiffs, tiffs_with_more_bands, pillow_tiffs, turned_files, pngs, bmps,
                           framed_files, jpegs, profiled_files) for case in make()]  # fmt: skip
REFUSED = list(refused_files())


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_a_file_is_read_as_the_picture_it_was_made_from(case: Case) -> None:
    picture = decode_image(case.write(), levels=EACH_ITS_OWN)
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.c_contiguous
    expected = case.expected if case.expected.ndim == 3 else case.expected[:, :, None]
    difference = np.abs(picture.pixels - np.broadcast_to(expected, picture.pixels.shape).astype(float))
    assert difference.mean() <= case.bound and difference.max() <= case.peak
    assert case.note in picture.note if case.note else "left as stored" not in picture.note


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_file_is_refused_with_its_reason(case: Refused, capfd: pytest.CaptureFixture[str]) -> None:
    assert case.reason in refusal(case.write())
    assert capfd.readouterr() == ("", "")


def test_the_corpus_is_large() -> None:
    names = [case.name for case in (*RIGHT, *REFUSED)]
    assert len(set(names)) == len(names)
    assert len(RIGHT) >= 500 and len(REFUSED) >= 30
