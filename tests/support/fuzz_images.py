"""Small images of every format that is read, to be damaged by tests."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from tests.support.duplicate_cases import scene
from tests.support.format_cases import bmp_with_masks, tiff, wide_gamut_profile
from tests.support.picture_cases import encode


def seed_images() -> list[bytes]:
    """Return files of all formats, written by Pillow and, for rare kinds, by other libraries."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"mode": "CMYK"}), ("JPEG", {"exif": exif}),
        ("PNG", {}), ("PNG", {"mode": "P"}), ("PNG", {"mode": "RGBA"}), ("PNG", {"exif": exif}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"animated": True}),
        ("GIF", {}), ("GIF", {"animated": True}), ("BMP", {}), ("BMP", {"mode": "P"}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"animated": True}),
    ]  # fmt: skip
    Image.init()
    kinds += [("AVIF", {}), ("AVIF", {"mode": "RGBA"})] if "AVIF" in Image.SAVE else []
    return [_saved(number, form, **options) for number, (form, options) in enumerate(kinds)] + _rare_files()


def _saved(number: int, form: str, **options: Any) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(scene(number, 36, 48))
    frames = {"save_all": True, "append_images": [image.rotate(90)]} if options.pop("animated", False) else {}
    image.convert(options.pop("mode", "RGB")).save(file, form, **frames, **options)
    return file.getvalue()


def _rare_files() -> list[bytes]:
    """Files of the kinds that are not read by Pillow: TIFF codecs, deep JPEG and PNG, BMP with masks, a profile."""
    colour = scene(0, 36, 48)
    deep = colour.astype(np.uint16) * 257
    files = [
        encode(colour, "JPEG", icc_profile=wide_gamut_profile()),
        imagecodecs.jpeg8_encode(deep >> 4, bitspersample=12),
    ]
    files += [imagecodecs.png_encode(deep), bmp_with_masks(colour, (0x1F << 11, 0x3F << 5, 0x1F))]
    for compression in ("lzw", "deflate", "packbits", "zstd", "webp", "lerc", "jpeg", "png"):
        files.append(tiff(colour, photometric="rgb", compression=compression))
    files += [tiff(deep, photometric="rgb", bigtiff=True), tiff(deep[:, :, 0], photometric="miniswhite", byteorder=">")]
    files += [
        tiff(colour, photometric="rgb", tile=(16, 16)),
        tiff(colour.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
    ]
    files += [
        tiff(colour[:, :, 0], photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 85)
    ]
    files += [encode(Image.fromarray(colour).convert("1"), "TIFF", compression=kind) for kind in ("group3", "group4")]
    return files
