"""Rows 19 and 20 of the fault matrix: files that vanish, and pictures that are there twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import Engine
from MLPipeline.images import ListImages
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from tests.support.duplicate_cases import CHANGES, encode, pixels_of, scene
from tests.support.harness import SMALL, refuse, succeed

Vanish = Callable[..., None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return fill(tmp_path / "Data", 12)


def fill(root: Path, number: int, first: int = 0) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for image in range(number):
            (root / name / f"{image:03}.jpg").write_bytes(encode(scene(first + 1000 * label + image, 32, 32)))
    return root


@pytest.fixture
def vanish(monkeypatch: pytest.MonkeyPatch) -> Vanish:
    """Return `vanish(names)`: these files are gone once the folders were listed."""

    def plan(*names: str) -> None:
        def scan(root: Path, *options: Any) -> ImageIndex:
            index = scan_folders(root, *options)
            for name in names:
                (root / name).unlink()
            return index

        monkeypatch.setattr(ListImages, "scan_folders", scan)

    return plan


def test_a_file_that_vanishes_after_the_scan_is_listed_and_the_run_goes_on(data, tmp_path, vanish):
    vanish("cat/003.jpg")
    assert Engine.main([*SMALL, "--data", str(data), "--output", str(tmp_path / "output")]) == 0
    path = tmp_path / "output" / "001-cnn"
    assert pd.read_csv(path / "skipped.csv").to_dict("list") == {
        "path": ["cat/003.jpg"], "reason": ["no such file or directory"],
    }  # fmt: skip
    assert len(pd.read_csv(path / "splits.csv")) == 23


def test_more_than_one_in_a_hundred_is_an_error(data, tmp_path, vanish, capsys):
    vanish("cat/003.jpg", "dog/001.jpg")
    assert Engine.main([*SMALL, "--data", str(data), "--output", str(tmp_path / "output")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"error: {data}: 2 of 24 files have vanished since the folders were listed. Do not change the folder"
    )


def test_a_picture_that_is_there_more_than_once_stays_on_one_side(data, tmp_path):
    for number in range(6):
        picture = data / "cat" / f"{number:03}.jpg"
        (data / "cat" / f"copy{number}.jpg").write_bytes(picture.read_bytes())
        (data / "dog" / f"copy{number}.jpg").write_bytes(picture.read_bytes())
        (data / "cat" / f"changed{number}.jpg").write_bytes(CHANGES["all at once"](pixels_of(picture)))
    outcome = succeed([*SMALL, "--data", data, "--output", tmp_path / "output"])
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv").set_index("path")["split"]
    for number in range(6):
        names = f"cat/{number:03}.jpg", f"cat/copy{number}.jpg", f"dog/copy{number}.jpg", f"cat/changed{number}.jpg"
        assert len({splits[name] for name in names}) == 1
    assert splits.nunique() == 3 and "Traceback" not in outcome.err


def test_leaks_across_the_users_own_splits_are_told_and_left_alone(tmp_path):
    data = tmp_path / "Data"
    for place, split in enumerate(("train", "val", "test")):
        fill(data / split, 6, first=100 * place)
    for number in range(3):
        (data / "test" / "cat" / f"leak{number}.jpg").write_bytes(
            (data / "train" / "cat" / f"00{number}.jpg").read_bytes()
        )
    outcome = succeed([*SMALL, "--data", data, "--output", tmp_path / "output"])
    assert any(note.startswith("3 images of val or test are copies of") for note in outcome.notes)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    assert (splits["path"].str.split("/").str[0] == splits["split"]).all()


def test_old_images_keep_their_side_when_others_come(data, tmp_path):
    command = [*SMALL, "--data", data, "--output", tmp_path / "output"]
    sides = []
    for run in (1, 2):
        succeed(command)
        sides.append(pd.read_csv(tmp_path / "output" / f"00{run}-cnn" / "splits.csv").set_index("path")["split"])
        for number in range(9):
            (data / "cat" / f"0{number}a.jpg").write_bytes(encode(scene(500 + number, 32, 32)))
    assert len(sides[1]) == len(sides[0]) + 9 and (sides[1][sides[0].index] == sides[0]).all()


@pytest.mark.parametrize("pattern, words", [("(", ("--group (", "regular expression")), ("[a", ("--group [a",))])
def test_what_is_no_pattern_is_refused(data, tmp_path, pattern, words):
    refuse([*SMALL, "--data", data, "--output", tmp_path / "output", "--group", pattern], 2, *words)


def test_images_of_one_patient_stay_on_one_side(tmp_path):
    data = tmp_path / "Data"
    for label, name in enumerate(("cat", "dog")):
        (data / name).mkdir(parents=True)
        for image in range(30):
            name_of_image = f"patient{image % 10}_{image}.jpg"
            (data / name / name_of_image).write_bytes(encode(scene(100 * label + image, 32, 32)))
    succeed([*SMALL, "--data", data, "--output", tmp_path / "output", "--group", r"patient(\d+)"])
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    patient = splits["path"].str.extract(r"patient(\d+)")[0]
    assert splits.groupby(patient)["split"].nunique().eq(1).all() and splits["split"].nunique() == 3
