"""Ten thousand damaged images: the reader neither crashes nor hangs, and says something sensible of each."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.support.duplicate_cases import scene
from tests.support.format_cases import bmp_with_masks, tiff, wide_gamut_profile
from tests.support.paths import ROOT
from tests.support.picture_cases import encode

NUM_MUTATIONS, TIME_LIMIT_S = 10_000, 240  # 20 s on a quiet core

CHILD = f"""
import faulthandler, random, sys
from pathlib import Path
from MLPipeline.images.Fingerprint import UNREADABLE, make_rows
from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image

faulthandler.dump_traceback_later({TIME_LIMIT_S - 20}, exit=True)
seeds = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
draw, outcomes = random.Random(0), [0, 0]
for number in range({NUM_MUTATIONS}):
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(min(len(data), draw.choice((64, 1000, 10**9))))  # headers matter more than pixels
        kind = draw.randrange(5)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at : at + 4] = draw.choice((b"\\xff" * 4, bytes(4), b"\\x7f\\xff\\xff\\xff", b"\\0\\0\\0\\1"))
        elif kind == 2:
            del data[at : at + draw.randint(1, 50)]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randint(1, 50))
        else:
            data[at:at] = data[at // 2 : at]
    data = bytes(data or b"x")
    row = make_rows([data])[0][0]
    outcomes[int(bool(row["print"]["flags"] & UNREADABLE))] += 1
    if number % 4 == 0:
        try:
            pixels = decode_image(data).pixels
            assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == "uint8"
            assert pixels.shape[1::-1] == (row["print"]["width"], row["print"]["height"])
        except UnreadableImage:
            assert row["note"]
print(*outcomes)
"""


def save(folder: Path, number: int, form: str, **options: Any) -> None:
    file, image = io.BytesIO(), Image.fromarray(scene(number, 36, 48))
    frames = {"save_all": True, "append_images": [image.rotate(90)]} if options.pop("animated", False) else {}
    image.convert(options.pop("mode", "RGB")).save(file, form, **frames, **options)
    (folder / f"{number:02}").write_bytes(file.getvalue())


def rare_files() -> list[bytes]:
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


@pytest.mark.slow
def test_ten_thousand_mutations_neither_crash_nor_hang(tmp_path: Path) -> None:
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
    for number, (form, options) in enumerate(kinds):
        save(tmp_path, number, form, **options)
    for number, data in enumerate(rare_files(), len(kinds)):
        (tmp_path / f"{number:02}").write_bytes(data)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "", "a decoder wrote to the console"
    read, refused = map(int, done.stdout.split())
    assert read + refused == NUM_MUTATIONS and read > 1000 and refused > 3000
