"""Rows 1 to 21 and 54 of the fault matrix through the command line: files that are damaged, odd or strangely named."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support.harness import SMALL, Outcome, refuse, succeed

MakeImages = Callable[..., Path]
Saved = Callable[..., bytes]


def photo(height: int = 60, width: int = 80) -> Image.Image:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


JPEG, PNG = saved(photo(), "JPEG"), saved(photo(), "PNG")
FLIPPED = bytearray(PNG)
FLIPPED[len(PNG) // 2] ^= 1
SKIPPED = {  # name: content, a word of the reason
    "01.jpg": (b"", "empty file"),
    "02.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "04a.png": (PNG[: len(PNG) // 2], "truncated"),
    "04b.png": (bytes(FLIPPED), "bad checksum"),
    "05a.jpg": (b"<!DOCTYPE html><html></html>", "HTML"),
    "05b.jpg": (b"just words\n" * 20, "not an image"),
    "06a.heic": (b"\0\0\0\x18ftypheic", "convert to JPEG or PNG"),
    "06b.svg": (b"<svg/>", "convert to JPEG or PNG"),
    "06c.pdf": (b"%PDF-1.4", "convert to JPEG or PNG"),
    "11.png": (png_header(70000, 70000), "too large"),
    "notes.txt": (b"hello", "not an image file"),
}
FRAMES = [photo(), photo(40, 40).resize((80, 60))]
USED = {  # name: content, a word of the note (none: used without remark)
    "03.jpg": (JPEG[:-2], "end marker missing"),
    "07a.png": (saved(Image.fromarray(np.full((9, 9), 40000, np.uint16)), "PNG"), ""),
    "07b.tif": (saved(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"), ""),
    "08a.jpg": (saved(photo().convert("CMYK"), "JPEG"), ""),
    "08b.png": (saved(photo().convert("RGBA"), "PNG"), ""),
    "08c.png": (saved(photo().convert("P"), "PNG"), ""),
    "08d.png": (saved(photo().convert("1"), "PNG"), ""),
    "08e.png": (saved(photo().convert("L"), "PNG"), ""),
    "10a.gif": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "first of 2 frames"),
    "10b.tif": (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "first of 2 pages"),
    "13a.png": (saved(photo(1, 1), "PNG"), ""),
    "13b.png": (saved(photo(4000, 1), "PNG"), ""),
}
ODD_NAMES = [
    b"18 a\nb.png",
    b"18<b>.png",
    b"18 $\\frac{$.png",
    b"=18.png",
    b"_18.png",
    "18 🐈.png".encode(),
    b"17\xff\xfe.png",
]


def raw(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))


class Odd:
    """A run over one folder of good images, and of every kind of bad and odd one."""

    def __init__(self, root: Path, make_images: MakeImages) -> None:
        data = make_images(root / "Data", {"cat": 10, "dog": 10})
        for name, (content, _) in {**SKIPPED, **USED}.items():
            (data / "cat" / name).write_bytes(content)
        for name in ODD_NAMES:
            shutil.copy(data / "dog" / "000.png", raw(data / "dog", name))
        (data / "cat" / "14a.jpg").mkdir()
        os.mkfifo(data / "cat" / "14b.jpg")
        (data / "cat" / "14c.jpg").symlink_to("/dev/zero")
        (data / "cat" / "15").symlink_to(data)
        self.outcome: Outcome = succeed([*SMALL, "--data", data, "--output", root / "output"], paints=True)
        self.path = root / "output" / "001-cnn"
        skipped = pd.read_csv(self.path / "skipped.csv")
        self.skipped = dict(zip(skipped["path"], skipped["reason"], strict=True))
        self.used = pd.read_csv(self.path / "splits.csv")["path"].tolist()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Odd:
    return Odd(tmp_path_factory.mktemp("odd"), make_images)


@pytest.mark.parametrize("name", SKIPPED)
def test_a_bad_file_is_skipped_and_listed_with_the_reason(odd: Odd, name: str) -> None:
    assert SKIPPED[name][1] in odd.skipped[f"cat/{name}"]
    assert f"cat/{name}" not in odd.used


def test_what_is_no_file_neither_blocks_nor_counts(odd: Odd) -> None:
    assert odd.skipped["cat/14b.jpg"] == "not a regular file"
    assert "cat/14c.jpg" in odd.skipped and any(path.startswith("cat/15") for path in odd.skipped)


@pytest.mark.parametrize("name", USED)
def test_an_odd_image_is_used_and_remarked_on(odd: Odd, name: str) -> None:
    assert f"cat/{name}" in odd.used and f"cat/{name}" not in odd.skipped
    assert any(name in note and USED[name][1] in note for note in odd.outcome.notes) or not USED[name][1]


def test_the_console_sums_up_what_is_skipped(odd: Odd) -> None:
    (line,) = [line for line in odd.outcome.out.splitlines() if line.startswith("skipped")]
    assert line.startswith(f"skipped  {len(odd.skipped)} files, listed in skipped.csv: ")


def test_odd_names_leave_the_tables_whole(odd: Odd) -> None:
    assert len(odd.used) == 20 + len(USED) + len(ODD_NAMES)
    assert "dog/18 a\\nb.png" in odd.used and "dog/=18.png" in odd.used and "dog/17\\udcff\\udcfe.png" in odd.used


def test_the_orientation_of_a_photo_changes_no_answer(odd: Odd, tmp_path: Path) -> None:
    upright = photo(32, 16)
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation: the transposition that undoes it
    undo = {0: 0, 3: 3, 1: 1, 5: 5, 2: 4, 6: 6, 4: 2}
    for orientation, operation in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright.transpose(Image.Transpose(undo[operation]))
        (tmp_path / f"{orientation}.png").write_bytes(saved(stored, "PNG", exif=exif))
    upright.save(tmp_path / "1.png")
    lines = succeed(["predict", tmp_path, "--run", odd.path]).out.splitlines()
    assert len(lines) == 8 and len({line.split("  ", 1)[1] for line in lines}) == 1


def test_nothing_but_bad_images_is_an_error_with_counts(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "Data" / name / f"{number}.jpg").write_bytes(b"<html>" if number else b"")
    refuse([*SMALL, "--data", tmp_path / "Data", "--output", tmp_path / "output"], 2, "2 x empty file", "6 x ")


NASTY = [
    "<img src=x onerror=alert(1)>",
    "=cmd|'\x1fc calc'!A1".replace("\x1f", "-"),
    "_under",
    "a$\\frac{$",
    "emoji 🐈",
]


def test_classes_may_be_called_anything(make_images: MakeImages, tmp_path: Path) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    make_images(data, dict.fromkeys(NASTY, 7))
    outcome = succeed([*SMALL, "--data", data, "--output", output], paints=True)
    path = output / "001-cnn"
    assert "5 classes" in outcome.out and set((path / "classes.txt").read_text().splitlines()) == set(NASTY)
    for name in ("splits.csv", "predictions.csv"):
        table = pd.read_csv(path / name)
        assert table["path"].str.lstrip("'").map(lambda image: (data / image).is_file()).all()
        cells = [str(cell) for cell in (*table.columns, *table.select_dtypes(exclude="number").to_numpy().flat)]
        assert len(cells) > 10 and not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert set(pd.read_csv(path / "splits.csv")["class"].str.lstrip("'")) == set(NASTY)
    for name in ("history", "confusion_matrix", "samples", "mistakes"):
        assert cv2.imread(str(path / f"{name}.png")) is not None
    answer = succeed(["predict", data / "_under" / "000.png", "--output", output]).out
    assert answer.count("\n") == 1 and "%" in answer
    assert all(name in succeed(["evaluate", "--output", output]).out for name in NASTY)
