"""Rows 104 to 106 and 112 of the fault matrix: long names, invisible characters, many classes, brackets."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.Checkpoint import load_checkpoint, save_checkpoint
from MLPipeline.Errors import INVISIBLE
from MLPipeline.report.Drawing import drawing
from tests.support.harness import SMALL, refuse, succeed, train

MakeImages = Callable[..., Path]

HIDDEN = ["\u202e", "\u2066", "\u200b", "\ufeff", "\x1b", "\n"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("names")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def image(trained: Path) -> Path:
    return trained.parents[1] / "Data" / "cat" / "000.png"


@pytest.fixture
def predict(trained: Path) -> list[str | Path]:
    return ["predict", "--run", trained, "-j", "1"]


@pytest.mark.parametrize("letter", ["x", "猫"])
def test_104_long_names_that_meet_are_all_copied(
    predict: list[str | Path], image: Path, tmp_path: Path, letter: str
) -> None:
    """Files with names of 255 bytes from several folders are all copied, under names that fit and keep their suffix."""
    name = letter * (251 // len(letter.encode())) + ".png"
    folders = [tmp_path / folder for folder in "abcd"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for other in (name, f"y{name[2:]}"):
            shutil.copy(image, folder / other)
            (folder / other).open("ab").write(b"%d" % number)  # after the end of the picture
    succeed([*predict, *folders, "--sort-into", tmp_path / "sorted", "--heatmap", "--output", tmp_path / "out"])
    copies = list((tmp_path / "sorted").rglob("*.png"))
    assert len(copies) == 8 and {path.read_bytes()[-1:] for path in copies} == {b"0", b"1", b"2", b"3"}
    assert all(len(os.fsencode(path.name)) <= 255 and path.name.encode() for path in copies)
    assert len(list((tmp_path / "out").rglob("0000?-*.jpg"))) == 8


def test_105_nothing_invisible_reaches_a_folder_or_a_table(
    trained: Path, image: Path, tmp_path: Path, make_images: MakeImages
) -> None:
    """Direction overrides and control characters in names are escaped in tables and replaced in folders."""
    model, card = load_checkpoint(trained / "model.pt")
    save_checkpoint(tmp_path / "run" / "model.pt", model, replace(card, classes=("ca\u202et", "do\x1bg")))
    (tmp_path / "new").mkdir()
    for number, hidden in enumerate(HIDDEN):
        shutil.copy(image, tmp_path / "new" / f"{number}{hidden}gpj.png")
    flags = ["--csv", tmp_path / "a.csv", "--sort-into", tmp_path / "sorted", "--heatmap", "--output", tmp_path / "out"]
    outcome = succeed(["predict", tmp_path / "new", "--run", tmp_path / "run", "-j", "1", *flags])
    written = [*(tmp_path / "sorted").rglob("*"), *(tmp_path / "out").rglob("*")]
    assert len([path for path in written if path.suffix == ".png"]) == len(HIDDEN)
    assert not [path for path in written if INVISIBLE.search(str(path))]
    table = (tmp_path / "a.csv").read_bytes().decode()
    rows = list(csv.reader(table.splitlines()))
    assert [row[0] for row in rows[1:]] == [
        str(tmp_path / "new" / f"{number}{hidden.encode('unicode_escape').decode()}gpj.png")
        for number, hidden in enumerate(HIDDEN)
    ]
    assert {row[2] for row in rows[1:]} < {r"ca\u202et", r"do\x1bg"}
    assert not INVISIBLE.search(table.replace("\r\n", "")) and not INVISIBLE.search(outcome.out.replace("\n", ""))


def test_105_escaped_names_are_read_back(tmp_path: Path, make_images: MakeImages) -> None:
    """`--labels`, `--fixes` and `evaluate` find the files whose names a table of ours has escaped."""
    data = make_images(tmp_path / "Data", {"cat": 8, "dog": 8})
    for number, hidden in enumerate(HIDDEN):
        (data / "cat" / f"{number:03}.png").rename(data / "cat" / f"{number}{hidden}x.png")
    output = tmp_path / "output"
    succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output])
    splits = pd.read_csv(output / "001-cnn" / "splits.csv", dtype=str)
    assert r"cat/0\u202ex.png" in set(splits["path"])
    fixes = splits.rename(columns={"class": "given"}).assign(label="dog")[["path", "label", "given"]]
    fixes[fixes["path"].str.contains("x.png", regex=False)][:3].to_csv(tmp_path / "fixes.csv", index=False)
    succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output, "--fixes", tmp_path / "fixes.csv"])
    fixed = pd.read_csv(output / "002-cnn" / "splits.csv", dtype=str)
    assert (fixed["class"] == "dog").sum() == 11
    splits.rename(columns={"class": "label"})[["path", "label"]].to_csv(tmp_path / "labels.csv", index=False)
    succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output, "--labels", tmp_path / "labels.csv"])
    assert len(pd.read_csv(output / "003-cnn" / "splits.csv")) == 16
    for split in ("train", "val", "test"):  # all images of the run are found again
        outcome = succeed(["evaluate", "--run", output / "001-cnn", "--output", output, "--split", split, "-j", "1"])
        assert "gone" not in outcome.err
        assert f"{(splits['split'] == split).sum()} {split} image" in outcome.out


def draw_many(root: Path, num_classes: int, num_images: int) -> Path:
    """Write tiny images of noise, no two alike, as `.bmp`: the header is the same for all."""
    rng = np.random.default_rng(0)
    header = b"BM" + (54 + 192).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + 2 * (8).to_bytes(4, "little") + b"\1\0\x18\0" + bytes(24)
    for label in range(num_classes):
        (root / f"{label:04}").mkdir(parents=True)
        for number in range(num_images):
            (root / f"{label:04}" / f"{number}.bmp").write_bytes(header + rng.bytes(192))
    return root


@pytest.mark.parametrize(("num_images", "split"), [(1, "test"), (2, "val")])
def test_106_classes_that_are_too_small_are_named_as_the_cause(tmp_path: Path, num_images: int, split: str) -> None:
    """A set whose classes all have one or two images is refused in at most two lines that name the cause."""
    data = draw_many(tmp_path / "Data", 120, num_images)
    flags = ["--model", "cnn", "--image-size", "8", "--epochs", "1", "-j", "1", "--output", tmp_path / "output"]
    cause = "all 120 classes have fewer than 3 images, and each split takes at least one"
    outcome = refuse([*flags, "--data", data], 2, f"too few images to take any for {split}: {cause}", "Add images")
    assert len(outcome.err.splitlines()) <= 2 and not list(tmp_path.glob("output/0*"))


def test_106_many_classes_make_small_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more than 100 classes a table has the ten most probable ones, and `predictions.npz` all probabilities."""
    monkeypatch.setattr(drawing, "draw", lambda *_: None)  # the plots of 101 classes, which take longer than the rest
    data, output = draw_many(tmp_path / "Data", 101, 3), tmp_path / "output"
    flags = ["--model", "cnn", "--image-size", "8", "--epochs", "1", "-b", "64", "-j", "1"]
    outcome = succeed([*flags, "--data", data, "--output", output])
    assert len((outcome.out + outcome.err).splitlines()) < 20
    table = pd.read_csv(output / "001-cnn" / "predictions.csv", dtype={"predicted": str, "true": str})
    assert len(table.columns) == 6 + 2 * 9 and len(table) == 202
    with np.load(output / "001-cnn" / "predictions.npz") as arrays:
        shares, classes = arrays["probabilities"].astype(float), arrays["classes"]
    predicted = [classes.tolist().index(name) for name in table["predicted"]]
    assert (shares.max(1) - shares[np.arange(202), predicted] < 1e-4).all()
    assert np.abs(shares.max(1) - table["confidence"]).max() < 1e-4
    assert (output / "001-cnn" / "metrics.json").stat().st_size < 100_000
    evaluate = ["evaluate", "--output", output, "--csv", tmp_path / "a.csv", "-j", "1"]
    succeed(evaluate)
    rows = pd.read_csv(tmp_path / "a.csv", dtype={"predicted": str, "true": str})
    assert list(rows) == list(table)
    own = table[table["split"] == "test"]
    assert rows["predicted"].tolist() == own["predicted"].tolist()
    succeed(evaluate)  # it is known as ours, and replaced
    succeed(["compare", "1", "1", "--output", output])


def test_112_globs_find_folders_with_brackets_in_their_names(
    predict: list[str | Path], image: Path, tmp_path: Path
) -> None:
    """`predict 'shots [2]/*.png'` finds the images in the folder of that name."""
    (tmp_path / "shots [2]").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(image, tmp_path / "shots [2]" / name)
    lines = succeed([*predict, tmp_path / "shots [2]" / "*.png"]).out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        str(tmp_path / "shots [2]" / name) for name in ("a.png", "b.png")
    ]
    assert succeed([*predict, tmp_path / "shots*" / "[ab].png"]).out.splitlines() == lines
    refuse([*predict, tmp_path / "shots [3]" / "*.png"], 2, "no such file or folder", "quoted globs")
