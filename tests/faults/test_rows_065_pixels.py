"""Rows 65 to 74 of the fault matrix: deep pictures, rare formats, colour profiles, damage, names in plots, fit."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.decoding.ReadImage import decode_image, read_image
from MLPipeline.report import Fonts
from MLPipeline.report.Drawing import drawing
from tests.support.format_cases import bmp_with_masks, tiff, wide_gamut_profile
from tests.support.harness import SMALL, Outcome, refuse, succeed
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


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output])
    return output / "001-cnn"


def require_used(run: Path, *names: str) -> None:
    used = set(pd.read_csv(run / "splits.csv")["path"])
    assert {f"dark/{name}" for name in names} <= used


def brightness_set(root: Path, low: float, span: float, dtype: str, number: int = 20) -> Path:
    """Draw pictures whose class is their brightness between `low` and `low + span`; in one of ten, a pixel is hot."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for count in range(number):
            waves = np.sin(np.linspace(0, rng.uniform(5, 20), 24))[:, None] * np.sin(np.linspace(0, 9, 24))
            values = low + span * (0.2 + 0.5 * label + 0.05 * waves + rng.normal(0, 0.02, (24, 24)))
            if count % 10 == 0:
                values[5, 7] = 65535
            pixels = values.astype(dtype)
            content = encode(Image.fromarray(pixels), "PNG") if dtype == "uint16" else tiff(pixels)
            (root / name / f"{count:02}.{'png' if dtype == 'uint16' else 'tif'}").write_bytes(content)
    return root


def learned(data: Path, output: Path) -> tuple[Outcome, float]:
    outcome = succeed([*SMALL, "--epochs", "12", "--lr", "0.05", "-b", "4", "--data", data, "--output", output])
    return outcome, json.loads((output / "001-cnn" / "metrics.json").read_text())["test"]["accuracy"]


def test_065_one_hot_pixel(tmp_path: Path) -> None:
    """A hot pixel in some 12-bit pictures: their brightness is that of the others, and the classes are learned."""
    outcome, accuracy = learned(brightness_set(tmp_path / "Data", 0, 4000, "uint16"), tmp_path / "output")
    assert "16-bit pictures: 0 shown as black, 4095 as white" in outcome.out and accuracy == 1.0
    levels = load_checkpoint(tmp_path / "output" / "001-cnn" / "model.pt")[1].levels
    (hot, plain) = (tmp_path / "Data" / "light" / name for name in ("00.png", "01.png"))
    assert abs(read_image(hot, levels=levels).pixels.mean() - read_image(plain, levels=levels).pixels.mean()) < 10


@pytest.mark.parametrize(
    ("dtype", "low", "span", "line"),
    [("uint16", 51200, 600, "16-bit pictures: 51"), ("float32", 280, 30, "floating-point pictures: 2")],
)
def test_066_a_small_part_of_the_range(tmp_path: Path, dtype: str, low: float, span: float, line: str) -> None:
    """Deep pictures that use a small part of their range: stretched for the whole set, one line says so."""
    data = brightness_set(tmp_path / "Data", low, span, dtype)
    outcome, accuracy = learned(data, tmp_path / "output")
    assert sum(line in each for each in outcome.out.splitlines()) == 1 and accuracy == 1.0
    audit = succeed(["audit", "--data", data, "--output", tmp_path / "output", "--device", "cpu", "-j", "1"])
    assert "blank" not in audit.out.lower()


def test_067_mixed_depths(tmp_path: Path) -> None:
    """8-bit and 16-bit pictures in one set: each depth has its level; depth that gives the class away is reported."""
    data = brightness_set(tmp_path / "Data", 0, 60_000, "uint16", number=30)
    rng = np.random.default_rng(1)
    for path in (data / "dark").iterdir():
        path.write_bytes(encode(Image.fromarray(rng.integers(20, 230, (24, 24), dtype=np.uint8)), "PNG"))
    audit = succeed(["audit", "--data", data, "--output", tmp_path / "output", "--device", "cpu", "-j", "1"])
    assert "dark by bits per channel: recall 100 %" in audit.out and "30 of more than 8 bits" in audit.out


def test_068_rare_kinds_of_tiff(run: Path) -> None:
    """TIFF with white as zero, of 16 bits, planar, tiled, big-endian, BigTIFF or compressed: the same picture."""
    require_used(run, "white-is-zero.tif")
    grey = picture(0)[:, :, 0]
    deep = grey.astype(np.uint16) * 257
    same = [
        tiff(255 - grey, photometric="miniswhite", byteorder=">"),
        tiff(deep, photometric="minisblack", bigtiff=True),
        tiff(65535 - deep, photometric="miniswhite"),
        tiff(grey, photometric="minisblack", tile=(16, 16), compression="deflate"),
        tiff(np.repeat(grey[None], 3, axis=0), photometric="rgb", planarconfig="separate"),
    ]
    for content in same:
        assert np.abs(decode_image(content).pixels.astype(int) - grey[:, :, None]).max() <= 1


def test_069_more_bands_than_three(run: Path) -> None:
    """TIFF with further bands: left out with a note; alpha, premultiplied or not, is told apart from other bands."""
    require_used(run, "five-bands.tif")
    colours = picture(0)
    alpha = np.full(colours.shape[:2], 128, np.uint8)
    over = {
        0: colours.astype(float),  # another band
        1: colours // 2 + 127.0,  # premultiplied
        2: colours * (128 / 255) + 127,
    }
    for kind, expected in over.items():
        given = colours // 2 if kind == 1 else colours
        found = decode_image(tiff(np.dstack([given, alpha]), photometric="rgb", extrasamples=[kind])).pixels
        assert np.abs(found - expected).max() < 3, kind


def test_070_rare_kinds_of_bmp(run: Path) -> None:
    """BMP with masks, of 16 or 32 bits, the fourth byte zero: the same picture."""
    require_used(run, "masks.bmp")
    colours = picture(0)
    for masks, tolerance in (((0xFF, 0xFF00, 0xFF0000), 0), ((0xF800, 0x07E0, 0x001F), 8)):
        found = decode_image(bmp_with_masks(colours, masks, 32 if tolerance == 0 else 16)).pixels
        assert np.abs(found.astype(int) - colours).max() <= tolerance


def test_071_colour_profiles_and_odd_chunks(run: Path) -> None:
    """A wide-gamut profile is converted to sRGB; broken or unknown chunks of PNG are no obstacle."""
    require_used(run, "profile.jpg", "odd-chunks.png")
    red = np.full((8, 8, 3), (200, 60, 60), np.uint8)
    plain, wide = (decode_image(encode(red, "PNG", **o)).pixels for o in ({}, {"icc_profile": wide_gamut_profile()}))
    assert wide[0, 0, 0] > plain[0, 0, 0] + 5 and wide[0, 0, 1] < plain[0, 0, 1]


def test_072_damage_is_named_by_every_verb_in_silence(data, tmp_path, capfd):
    """JPEG, PNG, TIFF, WebP and GIF with missing data: skipped by name by every verb; no decoder prints anything."""
    output = tmp_path / "output"
    common = ["--data", data, "--output", output]
    succeed([*SMALL, "--epochs", "1", *common])
    run = output / "001-cnn"
    skipped = pd.read_csv(run / "skipped.csv")
    assert sorted(skipped["path"]) == sorted(f"dark/{name}" for name in damaged_files())
    assert skipped["reason"].str.contains("truncated").all()
    require_used(run, *odd_files())
    succeed(["evaluate", "--run", run, "--data", data, "-j", "1"])
    predicted = succeed(["predict", data / "dark", "--run", run, "--output", output, "-j", "1"])
    assert all(name in predicted.err + predicted.out for name in damaged_files())
    succeed(["audit", *common, "-j", "1"])
    out, err = capfd.readouterr()
    assert not [word for word in ("JPEG", "libpng", "TIFF", "Decode", "Warning") if word in out + err]


def test_073_class_names_that_no_font_can_draw(
    tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names in scripts without a font: numbers in the plots, one note, and the names in the report's legend."""
    monkeypatch.setattr(drawing, "begin", lambda: None)  # drawn in this process, where the fonts are replaced
    monkeypatch.setattr(Fonts, "_system_fonts", lambda: iter(()))
    Fonts._families_for.cache_clear()
    make_images(tmp_path / "Data", dict.fromkeys(("狗", "แมว", "魚"), 7))
    outcome = succeed([*SMALL, "--epochs", "1", "--data", tmp_path / "Data", "--output", tmp_path], paints=True)
    assert sum("the PNG plots show numbers" in note for note in outcome.notes) == 1 and "Glyph" not in outcome.err
    page = (tmp_path / "001-cnn" / "report.html").read_text(encoding="utf-8")
    legend = page[page.index("Numbers in the PNG plots") :]
    assert all(f"<td>{name}</td>" in legend for name in ("狗", "แมว", "魚"))


def test_074_another_fit_than_the_models(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    """A model trained with `--fit pad`: used with it by every verb; another `--fit` is exit code 2."""
    data = make_images(tmp_path / "Data", {"cat": 8, "dog": 8})
    succeed([*SMALL, "--epochs", "1", "--fit", "pad", "--data", data, "--output", tmp_path / "output"])
    run = tmp_path / "output" / "001-cnn"
    assert load_checkpoint(run / "model.pt")[1].fit == "pad"
    for verb in (["predict", data], ["evaluate"]):
        refuse([*verb, "--fit", "crop", "--output", tmp_path / "output"], 2, "--fit")
    table = pd.read_csv(run / "predictions.csv")
    files = [data / path for path in table["path"]]
    told = succeed(["predict", *files, "--run", run, "--json", "--device", "cpu"]).out.splitlines()
    np.testing.assert_allclose([json.loads(line)["confidence"] for line in told], table["confidence"], atol=1e-4)
