"""Odd images are those unlike the others of their folder; duplicates are sorted by the harm they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MLPipeline.audit.Findings import Finding, find_faults
from MLPipeline.audit.OddImages import deviations, find_odd_images
from MLPipeline.images.Duplicates import find_duplicates, group_images
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ScanFolders import scan_folders
from tests.conftest import MakeImages
from tests.support.audit_cases import records


def odd(made: np.ndarray) -> dict[str, list[int]]:
    return {each.name: each.places.tolist() for each in find_odd_images(made) if len(each.places)}


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_photographs_are_not_odd(seed: int) -> None:
    assert odd(records(500, seed)) == {}


def test_each_oddity_is_found_and_nothing_else() -> None:
    made = records(200)
    made["contrast"][3], made["sharpness"][3] = 2, 0.01  # blank: not called blurred or dark as well
    made["light"][5], made["brightness"][5] = 40, 15
    made["shadow"][7], made["brightness"][7] = 230, 244
    made["sharpness"][11] = 5
    made["width"][13], made["height"][13] = 40, 40
    made["width"][17], made["height"][17] = 1600, 100
    assert odd(made) == {"blank": [3], "dark": [5], "light": [7], "blurred": [11], "size": [13], "shape": [17]}


def test_a_folder_of_icons_or_of_night_shots_is_ordinary() -> None:
    made = records(200)
    made["width"], made["height"] = 16, 16
    made["brightness"], made["light"] = 70, 90
    assert odd(made) == {}


def test_the_oddest_comes_first_with_its_figure() -> None:
    made = records(200)
    made["width"][[4, 9]], made["height"][[4, 9]] = [60, 30], [60, 30]
    (size,) = (each for each in find_odd_images(made) if each.name == "size")
    assert size.places.tolist() == [9, 4] and size.texts == ("30 x 30 pixels", "60 x 60 pixels")


def test_deviations_are_robust() -> None:
    values = np.concatenate([np.linspace(0, 1, 99), [1000.0]])
    assert deviations(values, 0.01)[:99].max() < 2 < 1000 < deviations(values, 0.01)[99]


def faults(root: Path, cache: Path) -> dict[str, Finding]:
    index = scan_folders(root)
    inspection = inspect_images(index, cache)
    pairs = find_duplicates(index, inspection)
    return {each.name: each for each in find_faults(index, inspection, pairs, group_images(index, inspection, pairs))}


def copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


def test_pairs_are_sorted_by_the_harm_they_do(tmp_path: Path, make_images: MakeImages) -> None:
    folders = {"train/cat": 30, "train/dog": 30, "test/cat": 25, "test/dog": 25}
    root = make_images(tmp_path / "Data", folders)
    assert faults(root, tmp_path / "cache") == {}
    copy(root, "train/cat/000.png", "train/dog/000.png")
    copy(root, "train/cat/001.png", "test/cat/001.png")
    copy(root, "train/dog/002.png", "train/dog/003.png")
    found = faults(root, tmp_path / "cache")
    assert list(found) == ["conflict", "leak", "copy"]
    paths = {name: [each.paths for each in finding.examples] for name, finding in found.items()}
    assert paths == {
        "conflict": [("train/cat/000.png", "train/dog/000.png")],
        "leak": [("train/cat/001.png", "test/cat/001.png")],
        "copy": [("train/dog/002.png", "train/dog/003.png")],
    }
    assert found["conflict"].examples[0].text == "cat or dog?" and found["leak"].examples[0].text == "in train and test"
    assert [finding.is_serious for finding in found.values()] == [True, True, False]


def test_unusable_files_and_small_classes(tmp_path: Path, make_images: MakeImages) -> None:
    root = make_images(tmp_path / "Data", {"cat": 250, "dog": 24})
    (root / "cat" / "000.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("hello")
    found = faults(root, tmp_path / "cache")
    assert [(each.paths, each.text) for each in found["unreadable"].examples] == [(("cat/000.png",), "empty file")]
    assert found["unreadable"].is_serious and not found["left-out"].is_serious
    assert found["left-out"].examples[0].paths == ("cat/notes.txt",)
    assert found["small-class"].examples[0].text == "dog: 24"
    assert set(found) == {"unreadable", "left-out", "small-class"}
