"""Folders that may be splits or classes: recognised, refused with both readings, or left out with a note."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex, scan_folders

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Return `touch(names)`: makes empty files; a scan opens none."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def splits(index: ImageIndex) -> dict[str, tuple[str, int]]:
    return {
        index.name(k): (index.classes[label], int(split))
        for k, (label, split) in enumerate(zip(index.labels, index.splits, strict=True))
    }


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        scan_folders(root, **options)
    return str(caught.value)


PAIRS = [
    ("training_set", "test_set"),
    ("seg_train", "seg_test"),
    ("Train Set", "Test Set"),
    ("train_images", "images_test2"),
    ("TrainImages", "TestImages"),
    ("cards-train", "cards-holdout"),
]


def test_splits_inside_the_classes_are_noted(touch: Touch, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(*(f"{name}/{part}/good/1.jpg" for name in ("bottle", "cable") for part in ("train", "Test")))
    index = scan_folders(root)
    assert index.classes == ("bottle", "cable") and set(index.splits.tolist()) == {UNSPLIT}
    assert [record.getMessage() for record in caplog.records] == [
        "bottle/train and bottle/Test lie inside a class folder and are not used as splits; "
        "to use such splits, make them the outer folders, as in train/bottle"
    ]
    caplog.clear()
    scan_folders(root, split_folders="no")
    assert not caplog.text


@pytest.mark.parametrize("inner", ["train", "testing", "contest", "front"])
def test_other_folders_inside_the_classes_are_not_noted(
    touch: Touch, inner: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan_folders(touch(*(f"{name}/{part}/1.jpg" for name in ("cat", "dog") for part in (inner, "back"))))
    assert not caplog.text


@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_a_split_is_recognised_by_a_word_of_its_name(touch: Touch, train: str, test: str) -> None:
    root = touch(*(f"{split}/{name}/1.jpg" for split in (train, test) for name in ("cat", "dog")))
    index = scan_folders(root)
    assert index.classes == ("cat", "dog")
    assert {name: split for name, (_, split) in splits(index).items()} == {
        f"{train}/cat/1.jpg": TRAIN,
        f"{train}/dog/1.jpg": TRAIN,
        f"{test}/cat/1.jpg": TEST,
        f"{test}/dog/1.jpg": TEST,
    }


def test_a_split_folder_may_wrap_a_folder_of_its_own_name(touch: Touch) -> None:
    """The layout of Intel's image classification set, whose third archive has no labels."""
    names = [f"seg_{split}/seg_{split}/{name}/1.jpg" for split in ("train", "test") for name in ("sea", "street")]
    index = scan_folders(touch(*names, "seg_pred/seg_pred/1.jpg"))
    assert index.classes == ("sea", "street") and sorted(splits(index)) == sorted(names)
    assert [(each.path, each.reason) for each in index.skipped] == [("seg_pred", "not in a class folder")]


@pytest.mark.parametrize("name", ["train", "Train Set", "val", "test tube", "valid", "dev", "bullet train"])
def test_a_name_beside_class_folders_is_refused_with_both_readings(touch: Touch, name: str) -> None:
    root = touch(f"{name}/1.jpg", "bus/1.jpg", "car/1.jpg")
    error = refusal(root)
    assert f"{name!r} lies beside other folders with images ('bus', 'car') and may be a split or a class" in error
    assert "--split-folders yes" in error and "--split-folders no" in error
    assert scan_folders(root, split_folders="no").classes == tuple(sorted(["bus", "car", name], key=str.lower))


def test_class_folders_in_train_beside_other_classes(touch: Touch, caplog: pytest.LogCaptureFixture) -> None:
    root = touch("train/steam/1.jpg", "train/diesel/1.jpg", "bus/1.jpg", "car/1.jpg", "notes/readme.txt")
    assert "('bus', 'car')" in refusal(root)
    index = scan_folders(root, split_folders="yes")
    assert index.classes == ("diesel", "steam") and set(index.splits.tolist()) == {TRAIN}
    assert f"{root / 'car'} lies beside the split folders and is not used" in caplog.text
    index = scan_folders(root, split_folders="no")
    assert splits(index)["train/steam/1.jpg"] == ("train", UNSPLIT) and index.classes == ("bus", "car", "train")


def test_a_test_folder_beside_class_folders_can_be_their_test_split(touch: Touch) -> None:
    root = touch("test/cat/9.jpg", "test/dog/9.jpg", "cat/1.jpg", "dog/1.jpg")
    assert "the others being used for training" in refusal(root)
    found = splits(scan_folders(root, split_folders="yes"))
    assert found["cat/1.jpg"] == ("cat", TRAIN) and found["test/cat/9.jpg"] == ("cat", TEST)


def test_folders_without_images_beside_splits_are_no_classes(touch: Touch) -> None:
    root = touch("train/cat/1.jpg", "train/dog/1.jpg", "annotations/1.xml", "train_labels/1.txt")
    assert scan_folders(root).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("test tube", "test strip"), ("train", "training"), ("val", "valid")])
def test_two_folders_of_one_split_are_refused(touch: Touch, names: tuple[str, str]) -> None:
    root = touch(*(f"{name}/x/1.jpg" for name in names), *(f"{name}/y/1.jpg" for name in names))
    error = refusal(root)
    assert "are the same split" in error and "--split-folders no" in error
    assert scan_folders(root, split_folders="no").classes == tuple(sorted(names))


@pytest.mark.parametrize("inner", ["test/1.jpg", "test/images/1.jpg", "Test Set/test_images/1.jpg", "test/pics/1.png"])
def test_unlabelled_test_images_are_noted_with_the_line_that_names_their_classes(
    touch: Touch, inner: str, caplog: pytest.LogCaptureFixture
) -> None:
    inner = inner.replace("pics", "unlabelled")
    root = touch("train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/2.jpg", inner)
    index = scan_folders(root)
    assert set(index.splits.tolist()) == {TRAIN, VAL} and len(index) == 3
    top = root / inner.split("/")[0]
    assert f"python Engine.py predict {shlex.quote(str(top))}" in caplog.text and "unlabelled" in caplog.text
    assert [(each.path, each.reason) for each in index.skipped] == [(top.name, "unlabelled images")]


def test_a_test_folder_of_another_class_is_not_unlabelled(touch: Touch) -> None:
    root = touch("train/cat/1.jpg", "train/dog/1.jpg", "test/cow/1.jpg")
    assert "class 'cow' is in test but has no training images" in refusal(root)


def test_a_class_called_images_is_a_class_in_test_too(touch: Touch) -> None:
    root = touch("train/images/1.jpg", "train/text/1.jpg", "test/images/2.jpg")
    assert splits(scan_folders(root))["test/images/2.jpg"] == ("images", TEST)


def test_loose_training_images_are_refused_with_what_may_be_meant(touch: Touch) -> None:
    error = refusal(touch("train/1.jpg", "train/2.jpg", "test/1.jpg"))
    assert "2 images but no class folders" in error
    assert "--labels TABLE" in error and "--split-folders no" in error


def test_a_trained_class_called_like_a_split_is_known_again(touch: Touch) -> None:
    root = touch("valid/1.jpg", "invalid/1.jpg")
    index = scan_folders(root, classes=("invalid", "valid"))
    assert splits(index) == {"valid/1.jpg": ("valid", UNSPLIT), "invalid/1.jpg": ("invalid", UNSPLIT)}


def test_a_split_folder_that_links_to_itself(touch: Touch) -> None:
    root = touch("train/cat/1.jpg", "train/dog/1.jpg")
    (root / "test").mkdir()
    os.symlink(root / "test", root / "test" / "test")
    assert sorted(splits(scan_folders(root))) == ["train/cat/1.jpg", "train/dog/1.jpg"]
