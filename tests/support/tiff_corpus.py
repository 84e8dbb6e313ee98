"""The TIFF files of the corpus: samples, compressions, byte orders, colour spaces and bands."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from tests.support.corpus import ALPHA, GREY, PICTURE, Case, as_type, on_white
from tests.support.format_cases import hand_made_tiff, tiff
from tests.support.picture_cases import encode


def grey_tiffs() -> Iterator[Case]:
    kinds = "uint8 uint16 uint32 uint64 int16 int32 float16 float32 float64".split()
    for kind, order, is_negative in itertools.product(kinds, "<>", (False, True)):
        samples = as_type(255 - GREY if is_negative else GREY, kind)
        options = {"photometric": "miniswhite" if is_negative else "minisblack", "byteorder": order}
        yield Case(f"tiff-{kind}-{order}-{options['photometric']}", partial(tiff, samples, **options), GREY, peak=1)
    packings = ("lzw", "deflate", "packbits", "zstd", "lzma")
    for kind, compression, predictor, tiled in itertools.product(
        ("uint8", "uint16", "float32"), packings, (False, True), (False, True)
    ):
        if predictor and compression == "packbits":
            continue
        options = {"compression": compression, "predictor": predictor, "photometric": "minisblack"}
        options |= {"tile": (16, 16)} if tiled else {"rowsperstrip": 7}
        name = f"tiff-{kind}-{compression}-{'predictor' if predictor else 'plain'}-{'tiles' if tiled else 'strips'}"
        yield Case(name, partial(tiff, as_type(GREY, kind), **options), GREY, peak=1)
    for bits, order, photometric, fill in itertools.product((1, 2, 4, 8, 10, 12, 14, 16), "<>", (0, 1), (1, 2)):
        if bits == 16 and fill == 2:
            continue  # FillOrder concerns samples that do not fill their bytes
        values = np.round(GREY / 255 * (2**bits - 1)).astype(np.uint16)
        stored = values if photometric else 2**bits - 1 - values
        write = partial(hand_made_tiff, stored[:, :, None], bits, photometric, order=order, fill=fill)
        expected = values * (255 / (2**bits - 1))
        yield Case(f"tiff-{bits}-bits-{order}-photometric-{photometric}-fill-{fill}", write, expected, peak=1)


def colour_tiffs() -> Iterator[Case]:
    for kind, planes, order, big, compression in itertools.product(
        ("uint8", "uint16", "float32"), ("contig", "separate"), "<>", (False, True), (None, "lzw", "deflate")
    ):
        samples = as_type(PICTURE, kind)
        samples = samples if planes == "contig" else samples.transpose(2, 0, 1)
        options = {"photometric": "rgb", "planarconfig": planes, "byteorder": order, "bigtiff": big}
        name = f"tiff-rgb-{kind}-{planes}-{order}-{'big' if big else 'classic'}-{compression}"
        yield Case(name, partial(tiff, samples, compression=compression, **options), PICTURE, peak=1)
    for compression, bound in (("webp", 6), ("jpeg", 4), ("png", 0), ("lerc", 0), ("jpeg2000", 4), ("jpegxl", 4)):
        write = partial(tiff, PICTURE, photometric="rgb", compression=compression)
        yield Case(f"tiff-rgb-in-{compression}", write, PICTURE, bound)
    for kind, planes in itertools.product(("uint8", "uint16"), ("contig", "separate")):
        inks = as_type(255 - np.dstack([PICTURE, np.full_like(GREY, 255)]), kind)
        inks = inks if planes == "contig" else inks.transpose(2, 0, 1)
        write = partial(tiff, inks, photometric="separated", planarconfig=planes)
        yield Case(f"tiff-cmyk-{kind}-{planes}", write, PICTURE, peak=1)
    lab = np.asarray(Image.fromarray(PICTURE).convert("RGB"))
    yield Case("tiff-lab-by-pillow", partial(lab_tiff, lab), PICTURE, 3)
    for bits in (1, 2, 4, 8):
        indices, colours = np.arange(40 * 24).reshape(24, 40) % 2**bits, rainbow(2**bits)
        for scale in (257, 1):  # a colour map of 16 bits, and one with 8 bits in them
            write = partial(hand_made_tiff, indices[:, :, None], bits, 3, colours=colours.astype(np.uint16) * scale)
            yield Case(f"tiff-palette-{bits}-bits-map-{scale}", write, colours[indices], 0)
    for subsampling in ((1, 1), (2, 2)):
        light = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
        write = partial(tiff, light, photometric="ycbcr", compression="jpeg", subsampling=subsampling)
        yield Case(f"tiff-ycbcr-jpeg-{subsampling[0]}", write, PICTURE, 6)


def lab_tiff(pixels: np.ndarray) -> bytes:
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return encode(ImageCms.profileToProfile(Image.fromarray(pixels), srgb, lab, outputMode="LAB"), "TIFF")


def rainbow(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (number, 3), dtype=np.uint8)


def tiffs_with_more_bands() -> Iterator[Case]:
    for kind, planes in itertools.product(("uint8", "uint16", "float32"), ("contig", "separate")):
        for extra in ("unspecified", "assocalpha", "unassalpha"):
            expected = PICTURE if extra == "unspecified" else on_white(PICTURE, ALPHA)
            opacity = (ALPHA / 255)[:, :, None]
            colours = np.round(PICTURE * opacity).astype(np.uint8) if extra == "assocalpha" else PICTURE
            samples = as_type(np.dstack([colours, ALPHA]), kind)
            samples = samples if planes == "contig" else samples.transpose(2, 0, 1)
            note = "4 bands: the first 3 are used" if extra == "unspecified" else ""
            write = partial(tiff, samples, photometric="rgb", planarconfig=planes, extrasamples=[extra])
            yield Case(f"tiff-rgb-{kind}-{planes}-{extra}", write, expected, peak=2, note=note)
        for extra in ("unspecified", "unassalpha"):
            expected = GREY if extra == "unspecified" else on_white(GREY, ALPHA)
            samples = as_type(np.dstack([GREY, ALPHA]), kind)
            samples = samples if planes == "contig" else samples.transpose(2, 0, 1)
            write = partial(tiff, samples, photometric="minisblack", planarconfig=planes, extrasamples=[extra])
            yield Case(f"tiff-grey-{kind}-{planes}-{extra}", write, expected, peak=2)
    for number in (5, 6, 8, 13):
        bands = np.dstack([PICTURE, np.repeat(ALPHA[:, :, None], number - 3, axis=2)])
        for photometric, count in (("rgb", number - 3), ("minisblack", number - 1)):
            write = partial(tiff, bands, photometric=photometric, planarconfig="contig", extrasamples=[0] * count)
            note = f"{number} bands: the first 3 are used"
            yield Case(f"tiff-{number}-bands-{photometric}", write, PICTURE, 0, note=note)


def pillow_tiffs() -> Iterator[Case]:
    modes = {
        "1": "tiff_lzw packbits group3 group4 tiff_ccitt",
        "L": "raw tiff_lzw tiff_adobe_deflate packbits jpeg zstd",
    }
    modes |= {"RGB": "raw tiff_lzw jpeg tiff_deflate lzma", "CMYK": "raw tiff_lzw", "P": "raw packbits"}
    modes |= {"YCbCr": "raw tiff_lzw", "LA": "raw", "RGBA": "raw tiff_lzw", "I;16": "raw", "I;16B": "raw"}
    for mode, compressions in modes.items():
        if mode.startswith("I"):
            image = Image.fromarray((GREY.astype(np.uint16) * 257).astype(">u2" if mode.endswith("B") else "<u2"))
            expected: np.ndarray = GREY
        elif mode in ("LA", "RGBA"):
            image = Image.merge(mode, [*Image.fromarray(PICTURE).convert(mode[:-1]).split(), Image.fromarray(ALPHA)])
            expected = on_white(np.asarray(image.convert("RGB")), ALPHA)
        else:
            image = Image.fromarray(PICTURE).convert(mode)
            expected = np.asarray(image.convert("RGB"))
        for compression in compressions.split():
            bound = 6 if compression in ("jpeg", "webp") else 2
            yield Case(
                f"tiff-pillow-{mode}-{compression}",
                partial(encode, image, "TIFF", compression=compression),
                expected,
                bound,
            )
