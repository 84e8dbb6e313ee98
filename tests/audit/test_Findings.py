"""Odd images are those unlike the others of their folder; duplicates are sorted by the harm they do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MLPipeline.audit.Findings import Finding, find_faults
from MLPipeline.audit.OddImages import deviations, find_odd_images
from MLPipeline.decoding.ReadImage import cv2
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


def faults(root: Path, cache: Path, pattern: str | None = None) -> dict[str, Finding]:
    index = scan_folders(root)
    inspection = inspect_images(index, cache)
    pairs = find_duplicates(index, inspection)
    groups = group_images(index, inspection, pairs, pattern)
    return {each.name: each for each in find_faults(index, inspection, pairs, groups)}


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


def test_images_of_one_group_in_two_splits_are_not_called_the_same_picture(
    tmp_path: Path, make_images: MakeImages
) -> None:
    root = make_images(tmp_path / "Data", {"train/cat": 30, "train/dog": 30, "test/cat": 25, "test/dog": 25})
    copy(root, "train/cat/001.png", "test/cat/001.png")
    os.rename(root / "train/cat/002.png", root / "train/cat/patient_7_a.png")
    os.rename(root / "test/dog/003.png", root / "test/dog/patient_7_b.png")
    found = faults(root, tmp_path / "cache", r"patient_(\d)")
    assert list(found) == ["leak", "group-leak"] and all(each.is_serious for each in found.values())
    assert [each.paths for each in found["leak"].examples] == [("train/cat/001.png", "test/cat/001.png")]
    assert found["group-leak"].headline == "Images whose group is in another split, too: 1"
    (example,) = found["group-leak"].examples
    assert example.paths == ("test/dog/patient_7_b.png",)
    assert example.text == "in test; train/cat/patient_7_a.png is in train"


def of_greys(tmp_path: Path, greys: list[int]) -> dict[str, Finding]:
    """Return what is found among pictures of such mean greys, all different."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "Data" / name).mkdir(parents=True)
    for number, grey in enumerate(greys):
        picture = np.clip(cv2.resize(rng.normal(grey, 15, (8, 8, 3)), (48, 48)), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "Data" / "ab"[number % 2] / f"{number:03}.png"), picture)
    return faults(tmp_path / "Data", tmp_path / "cache")


def test_two_dark_pictures_are_outliers(tmp_path: Path) -> None:
    found = of_greys(tmp_path, [30, 30, *[140] * 78])["dark"]
    assert found.headline == "Dark images: 2" and found.advice.startswith("Delete them unless")


@pytest.mark.parametrize(("number", "share"), [(20, "20 of 80 images, 1 in 4"), (48, "48 of 80 images, 60 %")])
def test_what_holds_for_much_of_the_set_is_a_property_that_no_one_is_told_to_delete(
    tmp_path: Path, number: int, share: str
) -> None:
    found = of_greys(tmp_path, [30] * number + [140] * (80 - number))["dark"]
    assert found.headline == "Dark images" and found.is_property
    assert [(each.paths, each.text) for each in found.examples] == [((), f"dark: {share}")]
    assert "nothing to delete" in found.advice and "Delete" not in found.advice


def test_a_note_on_every_file_is_a_property(tmp_path: Path, make_images: MakeImages) -> None:
    root = make_images(tmp_path / "Data", {"cat": 30, "dog": 30})
    for path in root.glob("cat/*.png"):
        pages = [Image.open(path), Image.new("RGB", (8, 8))]
        pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])
        path.unlink()
    found = faults(root, tmp_path / "cache")["unusual"]
    assert [each.text for each in found.examples] == ["first of 2 pages: 30 of 60 images, 1 in 2"]
    assert found.is_property and "Save them" not in found.advice


def test_near_duplicates_that_make_up_much_of_the_set_are_a_property(tmp_path: Path, make_images: MakeImages) -> None:
    rng, folder = np.random.default_rng(0), make_images(tmp_path / "Data", {"b": 6}) / "a"
    folder.mkdir()
    still = cv2.resize(rng.uniform(40, 210, (8, 8, 3)), (64, 64), interpolation=cv2.INTER_CUBIC)
    for number in range(6):
        frame = np.clip(still + rng.normal(0, 1.5, still.shape), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), frame)
    found = faults(tmp_path / "Data", tmp_path / "cache")["near-duplicate"]
    assert "They make up 6 of 12 images, 1 in 2" in found.advice and "delete" not in found.advice.lower()


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
