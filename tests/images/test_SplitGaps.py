"""Classes that a split has no images of are named with the cause."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from MLPipeline.images.ScanFolders import TEST, UNSPLIT, VAL
from MLPipeline.images.SplitGaps import Gap, find_gaps, gap_lines
from MLPipeline.images.SplitImages import split_images
from tests.support.harness import Outcome, refuse, succeed
from tests.support.split_cases import index_from


def draw(folder: Path, number: int, rng: np.random.Generator, name: str = "{}") -> None:
    """Discs and squares on smooth noise: no two are near-duplicates."""
    folder.mkdir(parents=True)
    for place in range(number):
        image = cv2.resize(rng.integers(60, 230, (6, 6, 3)).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        x, y = (int(value) for value in rng.integers(12, 50, 2))
        cv2.circle(image, (x, y), int(rng.integers(6, 12)), tuple(int(v) for v in rng.integers(0, 255, 3)), -1)
        (folder / f"{name.format(place)}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())


def train(data: Path, tmp_path: Path, *flags: object) -> Outcome:
    settings = ["--model", "cnn", "--epochs", "1", "--image-size", "32", "-j", "1"]
    return succeed([*settings, "--data", data, "--output", tmp_path / "output", *flags])


def test_a_group_expression_that_finds_the_class_is_the_cause(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("normal", "viral", "3_bacterial"):
        draw(tmp_path / "data" / name, 20, rng, "p{}_")
    done = train(tmp_path / "data", tmp_path, "--group", r"(\d+)_")
    cause = r"no test images of class 3_bacterial: --group '(\d+)_' puts its 20 images into one group"
    assert any(note.startswith(cause) for note in done.notes)  # before training
    assert f"missing  {cause} (in 3_bacterial/p0_.png it finds '3')" in done.out
    assert "the figures are over 2 of 3 classes" in done.out
    assert "majority-class baseline 50.0 % (class normal)" in done.out
    page = (tmp_path / "output" / "001-cnn" / "report.html").read_text(encoding="utf-8")
    assert "The figures are over 2 of 3" in page and "Balanced accuracy over 2 of 3 classes" in page
    assert "puts its 20 images into one group" in page


def test_near_duplicates_are_the_cause(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        draw(tmp_path / "data" / name, 16, rng)
    draw(tmp_path / "data" / "c", 1, rng)
    one = cv2.imread(str(tmp_path / "data" / "c" / "0.png"))
    for place in range(1, 12):
        copy = np.clip(one + rng.normal(0, 1.5, one.shape), 0, 255).astype(np.uint8)
        (tmp_path / "data" / "c" / f"{place}.png").write_bytes(cv2.imencode(".png", copy)[1].tobytes())
    done = train(tmp_path / "data", tmp_path)
    cause = "its 12 images are near-duplicates of each other, and near-duplicates stay in one split"
    assert f"missing  no test images of class c: {cause}" in done.out


@pytest.mark.parametrize("flags", [[], ["--group", "(x)"]])
def test_groups_of_a_table_are_the_cause(tmp_path: Path, flags: list[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        draw(tmp_path / "data" / name, 12, rng, name + "{}")
    rows = [f"{name}{place},{name},{1 if name == 'a' else place + 2}" for name in ("a", "b") for place in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,group", *rows]))
    done = train(tmp_path / "data", tmp_path, "--labels", tmp_path / "labels.csv", *flags)
    by = "--group '(x)' and the column group of the table put" if flags else "the column group of the table puts"
    assert f"missing  no test images of class a: {by} its 12 images into one group" in done.out


def test_groups_with_images_of_another_class_are_the_cause() -> None:
    """Each image of a is in a group with the only image of another class, which must keep it for training."""
    labels = [0] * 6 + list(range(1, 7)) + [7] * 12
    index = index_from([(UNSPLIT, label, f"{place}.jpg") for place, label in enumerate(labels)], 8)
    groups = np.concatenate([np.arange(6), np.arange(6), np.arange(12, 24)])
    gaps = find_gaps(index, split_images(index, 0.15, 0.15, 0, groups), groups, groups, None)
    cause = "its training images are in groups with images of other classes, and a group stays in one split"
    assert Gap(TEST, "a", cause) in gaps and Gap(TEST, "b", "it has only 1 image") in gaps


def test_splits_of_an_earlier_run_are_the_cause(tmp_path: Path) -> None:
    """Where its validation images were deleted, a class has no other: images keep their split."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        draw(tmp_path / "data" / name, 12, rng)
    train(tmp_path / "data", tmp_path)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    held_out = splits["path"][splits["split"] == "val"].tolist()

    def delete(name: str) -> None:
        for path in (each for each in held_out if each.startswith(name)):
            (tmp_path / "data" / path).unlink()

    delete("a")
    cause = "its 8 training images keep the split that an earlier run gave them; another --seed divides all images"
    assert f"no val images of class a: {cause} again" in train(tmp_path / "data", tmp_path).notes
    delete("b")
    settings = ["--model", "cnn", "--data", tmp_path / "data", "--output", tmp_path / "output"]
    refuse(settings, 2, "none of those that an earlier run had in val is left", "another --seed")
    assert not any("no val images" in note for note in train(tmp_path / "data", tmp_path, "--seed", "1").notes)


def test_a_split_folder_without_the_class_is_the_cause(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, names in {"train": ("a", "b", "c"), "val": ("a", "b", "c"), "test": ("a", "b")}.items():
        for name in names:
            draw(tmp_path / "data" / part / name, 6, rng)
    done = train(tmp_path / "data", tmp_path)
    assert "missing  no test images of class c: the test folder has no readable image of it" in done.out
    assert not any("no val images" in note for note in done.notes)


@pytest.mark.parametrize("fraction", ["0.2", "0"])
def test_where_all_classes_have_images_nothing_is_said(tmp_path: Path, fraction: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        draw(tmp_path / "data" / name, 12, rng)
    done = train(tmp_path / "data", tmp_path, "--test-fraction", fraction)
    assert "missing  " not in done.out and not any("images of class" in note for note in done.notes)


def test_many_gaps_are_a_few_lines_and_a_count() -> None:
    gaps = [Gap(split, f"class {number}", "it has only 1 image") for number in range(1990) for split in (VAL, TEST)]
    lines = gap_lines(gaps)
    assert len(lines) == 22
    assert lines[0] == "no val images of class class 0: it has only 1 image"
    assert lines[10] == "no val images of 1,980 more classes" and lines[21] == "no test images of 1,980 more classes"
    assert gap_lines(gaps[:20]) == [gap.to_text() for gap in sorted(gaps[:20], key=lambda gap: gap.split)]
    assert gap_lines([]) == []
