"""Rows 68 to 72 of the fault matrix through the command line: used or skipped by name, in every verb, in silence."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.format_cases import bmp_with_masks, tiff, wide_gamut_profile
from tests.support.harness import SMALL, succeed
from tests.support.picture_cases import encode, png_chunk

NOISE = np.random.default_rng(0)
END = b"\xff\xd9"


def picture(label: int) -> np.ndarray:
    return np.clip(NOISE.integers(0, 90, (48, 64, 3)) + 120 * label, 0, 255).astype(np.uint8)


def damaged_files() -> dict[str, bytes]:
    """File name -> content: each is refused, and each made some decoder write to the console."""
    jpeg, pixels = encode(picture(1), "JPEG", quality=90), picture(0)
    restarts = encode(pixels, "JPEG", quality=90, restart_marker_blocks=4)
    marker = restarts.index(b"\xff\xd1")
    whole = encode(pixels, "PNG")
    at = whole.index(b"IDAT")
    rows = zlib.decompress(whole[at + 4 : at + 4 + struct.unpack_from(">I", whole, at - 4)[0]])
    short = png_chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + png_chunk(b"IEND", b"")
    fax = encode(Image.fromarray(pixels).convert("1"), "TIFF", compression="group4")
    return {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut-but-closed.jpg": jpeg[: len(jpeg) // 2] + END,
        "cut-then-whole.jpg": jpeg[: len(jpeg) // 2] + jpeg,
        "hole.jpg": jpeg[:1500] + bytes(400) + jpeg[1900:],
        "no-restart.jpg": restarts[:marker] + restarts[marker + 2 :],
        "short.png": whole[: at - 4] + short,
        "cut.tif": tiff(pixels, photometric="rgb", compression="lzw")[:-900],
        "cut-fax.tif": fax[: len(fax) // 2],
        "cut.webp": encode(pixels, "WEBP")[:-100],
        "cut.gif": encode(pixels, "GIF")[:-300],
    }


def odd_files() -> dict[str, bytes]:
    """File name -> content: each is used."""
    pixels = picture(0)
    extra = png_chunk(b"gAMA", b"\0\0\0\0") + png_chunk(b"iCCP", b"x\0\0broken") + png_chunk(b"eXIf", b"broken")
    whole = encode(pixels, "PNG")
    return {
        "odd-chunks.png": whole[:33] + extra + whole[33:],
        "profile.jpg": encode(pixels, "JPEG", icc_profile=wide_gamut_profile()),
        "white-is-zero.tif": tiff(255 - pixels[:, :, 0], photometric="miniswhite", byteorder=">"),
        "five-bands.tif": tiff(np.dstack([pixels, pixels[:, :, :2]]), photometric="rgb", extrasamples=[0, 0]),
        "masks.bmp": bmp_with_masks(pixels, (0xFF, 0xFF00, 0xFF0000), 32),
        "junk.jpg": encode(pixels, "JPEG")[:-2] + b"junk" * 30 + END,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pixels") / "Data"
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for number in range(12):
            (root / name / f"{number:02}.jpg").write_bytes(encode(picture(label), "JPEG"))
    for name, content in (damaged_files() | odd_files()).items():
        (root / "dark" / name).write_bytes(content)
    return root


def test_every_verb_names_what_it_skips_and_no_decoder_reaches_the_console(data, tmp_path, capfd):
    output = tmp_path / "output"
    common = ["--data", data, "--output", output]
    succeed([*SMALL, *common])
    run = output / "001-cnn"
    skipped = pd.read_csv(run / "skipped.csv")
    assert sorted(skipped["path"]) == sorted(f"dark/{name}" for name in damaged_files())
    assert skipped["reason"].str.contains("truncated").all()
    assert set(pd.read_csv(run / "splits.csv")["path"]) >= {f"dark/{name}" for name in odd_files()}
    succeed(["evaluate", "--run", run, "--data", data, "-j", "1"])
    predicted = succeed(["predict", data / "dark", "--run", run, "--output", output, "-j", "1"])
    assert all(name in predicted.err + predicted.out for name in damaged_files())
    succeed(["audit", *common, "-j", "1"])
    out, err = capfd.readouterr()
    assert not [word for word in ("JPEG", "libpng", "TIFF", "Decode", "Warning") if word in out + err]
