"""Which files become images of which class and split, and what is refused or left out, by name and reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex, folder_overview, scan_folders


def touch(root: Path, *names: str) -> Path:
    """Make empty files, and folders for names that end in a slash: a scan opens nothing."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def listed(index: ImageIndex) -> list[tuple[str, str, int]]:
    """Return (name, class, split) of every image."""
    return [
        (index.name(position), index.classes[index.labels[position]], int(index.splits[position]))
        for position in range(len(index))
    ]


def names(index: ImageIndex) -> list[str]:
    return [name for name, _, _ in listed(index)]


def skipped(index: ImageIndex) -> dict[str, str]:
    return {each.path: each.reason for each in index.skipped}


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        scan_folders(root, **options)
    return str(caught.value)


# ---- what is found ----------------------------------------------------------------------------------------


def test_classes_and_files_come_in_natural_order_with_their_labels(tmp_path):
    touch(tmp_path, "b/img10.jpg", "b/img2.JPG", "b/IMG1.jpeg", "a10/x.png", "a2/deep/er/y.webp", "a2/z.tiff")
    index = scan_folders(tmp_path)
    assert index.classes == ("a2", "a10", "b")
    assert listed(index) == [
        ("a2/deep/er/y.webp", "a2", UNSPLIT),
        ("a2/z.tiff", "a2", UNSPLIT),
        ("a10/x.png", "a10", UNSPLIT),
        ("b/IMG1.jpeg", "b", UNSPLIT),
        ("b/img2.JPG", "b", UNSPLIT),
        ("b/img10.jpg", "b", UNSPLIT),
    ]
    assert (index.labels.dtype, index.splits.dtype) == (np.int32, np.int8)
    assert index.path(2) == tmp_path / "a10/x.png"


@pytest.mark.parametrize("train, val, test", [
    ("train", "val", "test"),
    ("Training", "VALID", "Testing"),
    ("TRAINING_DATA", "Validation_Data", "testing_data"),
    ("training", "validation", "TEST"),
])  # fmt: skip
def test_split_folders_of_every_spelling_are_splits_and_no_classes(tmp_path, train, val, test):
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in (train, val, test) for name in ("cat", "dog")))
    index = scan_folders(tmp_path)
    assert index.classes == ("cat", "dog")
    expected = [(f"{s}/{c}/1.jpg", c, n) for n, s in enumerate((train, val, test)) for c in ("cat", "dog")]
    assert listed(index) == expected
    assert [index.positions(split).tolist() for split in (TRAIN, VAL, TEST)] == [[0, 1], [2, 3], [4, 5]]


def test_system_files_are_ignored_and_other_files_listed(tmp_path):
    junk = [".DS_Store", "__MACOSX/cat/._1.jpg", ".ipynb_checkpoints/1.jpg", "cat/.ipynb_checkpoints/1.jpg"]
    junk += ["cat/Thumbs.db", "cat/@eaDir/1.jpg", "cat/.hidden.jpg", "Desktop.ini"]
    touch(tmp_path, *junk, "cat/1.jpg", "dog/1.jpg", "cat/notes.txt", "cat/1.HEIC", "cat/README", "loose.png", "a.csv")
    index = scan_folders(tmp_path)
    assert names(index) == ["cat/1.jpg", "dog/1.jpg"]
    assert skipped(index) == {
        "a.csv": "not in a class folder",
        "loose.png": "not in a class folder",
        "cat/1.HEIC": "HEIC: convert to JPEG or PNG",
        "cat/notes.txt": "not an image file (.txt)",
        "cat/README": "not an image file (no suffix)",
    }


def test_what_lies_beside_split_folders_is_listed(tmp_path, caplog):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/loose.jpg", "bird/1.jpg", "x.jpg")
    index = scan_folders(tmp_path, split_folders="yes")
    assert index.classes == ("cat", "dog")
    assert set(skipped(index)) == {"bird", "x.jpg", "train/loose.jpg"}
    assert f"{tmp_path / 'bird'} lies beside the split folders and is not used" in caplog.text


ODD_NAMES = [
    b"\xff\xfe.jpg",
    "a\nb.jpg",
    "\U0001f408.jpg",
    "=1+1.jpg",
    "_x.jpg",
    "<img src=x>.jpg",
    "$\\frac{$.jpg",
    " .jpg",
]
ODD_NAMES += ["1²3.jpg", "٣.jpg", "1" * 200 + ".jpg", "-rf.jpg", "Å.jpg"]


def test_odd_names_come_back_byte_for_byte(tmp_path):
    touch(tmp_path, "dog/1.jpg", "cat/")
    odd = sorted(os.fsencode(name) for name in ODD_NAMES)
    for name in odd:
        (tmp_path / "cat" / os.fsdecode(name)).touch()
    index = scan_folders(tmp_path)
    assert sorted(os.fsencode(name) for name in names(index)) == sorted([b"dog/1.jpg", *(b"cat/" + n for n in odd)])
    assert all(index.path(position).exists() for position in range(len(index)))


def test_a_class_name_that_is_not_utf8_becomes_text(tmp_path):
    touch(tmp_path, "dog/1.jpg", os.fsdecode(b"caf\xe9/1.jpg"))
    index = scan_folders(tmp_path)
    assert index.classes == ("caf\\xe9", "dog")
    assert [index.path(position).exists() for position in (0, 1)] == [True, True]


def test_a_thousand_nested_folders_are_walked(tmp_path):
    touch(tmp_path, "dog/1.jpg", "cat/")
    folders = ["cat" + "/d" * depth for depth in range(1, 1101)]  # pathlib and shutil recurse: neither could
    for folder in folders:
        os.mkdir(tmp_path / folder)
    (tmp_path / folders[-1] / "1.jpg").touch()
    assert names(scan_folders(tmp_path)) == [f"{folders[-1]}/1.jpg", "dog/1.jpg"]
    (tmp_path / folders[-1] / "1.jpg").unlink()
    for folder in reversed(folders):
        os.rmdir(tmp_path / folder)


# ---- classes ----------------------------------------------------------------------------------------------


def test_empty_classes_are_left_out_by_name(tmp_path, caplog):
    touch(tmp_path, "bird/", "cat/1.jpg", "dog/1.jpg")
    assert scan_folders(tmp_path).classes == ("cat", "dog")
    assert "class 'bird' has no images and is left out" in caplog.text


def test_a_class_may_be_absent_from_test_but_not_from_train(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/emu/1.jpg", "test/dog/2.jpg", "test/emu/2.jpg")
    assert listed(scan_folders(tmp_path))[-2:] == [("test/dog/2.jpg", "dog", TEST), ("test/emu/2.jpg", "emu", TEST)]
    touch(tmp_path, "test/fox/1.jpg", "train/fox/")
    assert "class 'fox' is in test but has no training images" in refusal(tmp_path)


def test_many_classes_without_images_are_a_few_lines(tmp_path, caplog):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", *(f"none{number:04}/" for number in range(2000)))
    assert scan_folders(tmp_path).classes == ("cat", "dog")
    assert [record.getMessage() for record in caplog.records] == [
        *(f"class 'none000{number}' has no images and is left out" for number in range(5)),
        "1995 more classes have no images and are left out",
    ]


@pytest.mark.parametrize("one, other", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße")])
def test_twins_are_refused_by_both_names(tmp_path, one, other):
    touch(tmp_path, f"{one}/1.jpg", f"{other}/1.jpg", "dog/1.jpg")
    error = refusal(tmp_path)
    show = ascii if one == "caf\u00e9" else repr  # by letters alone its two forms look the same
    assert show(one) in error and show(other) in error and "Rename or merge one" in error


def test_known_classes_are_matched_by_name(tmp_path):
    touch(tmp_path, "dog/1.jpg", "empty/")
    index = scan_folders(tmp_path, classes=("bird", "cat", "dog"))
    assert index.classes == ("bird", "cat", "dog") and index.labels.tolist() == [2]
    touch(tmp_path, "dgo/1.jpg")
    assert "the model knows no class 'dgo'. Did you mean 'dog'?" in refusal(tmp_path, classes=("bird", "cat", "dog"))


def test_known_classes_may_come_in_a_test_folder_alone(tmp_path):
    touch(tmp_path, "test/dog/1.jpg")
    assert listed(scan_folders(tmp_path, classes=("cat", "dog"))) == [("test/dog/1.jpg", "dog", TEST)]
    assert "test but no train" in refusal(tmp_path)


# ---- refused folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("files, what", [
    ([], "no class folders. Expected one folder per class"),
    (["cat/", "dog/"], "no class has images. Expected one folder per class"),
    (["1.jpg", "2.png", "notes.txt"], "2 images but no class folders. Expected one folder per class"),
    (["cat/1.jpg", "dog/"], "only the class 'cat' has images, and two are needed. Expected one folder per class"),
    (["cat/1.jpg"], "only the class 'cat' has images, and two are needed. Expected one folder per class"),
    (["train/1.jpg", "test/1.jpg"], "train: 1 images but no class folders"),
    (["train/cat/1.jpg", "train/dog/1.jpg", "val/"], "val: no class folders"),
    (["val/cat/1.jpg", "valid/cat/1.jpg", "train/cat/1.jpg"], "val and valid are the same split. Keep one"),
    (["Train/cat/1.jpg", "train/cat/1.jpg"], "Train and train are the same split. Keep one"),
    (["cat/1.heic", "dog/1.heic", "dog/x"], "(left out: 2 x HEIC: convert to JPEG or PNG, 1 x not an image file"),
    (["my pets/cat/1.jpg", "my pets/dog/1.jpg", "labels.csv"], "For the folders inside it, use --data '"),
    (["train/pets/cat/1.jpg", "train/pets/dog/1.jpg"], "use --data {root}/train/pets"),
])  # fmt: skip
def test_a_folder_that_cannot_be_used_is_refused_with_the_mend(tmp_path, files, what):
    root = touch(tmp_path / "Data", "./", *files)
    assert what.format(root=root) in refusal(root)


def test_the_proposed_folder_works(tmp_path):
    touch(tmp_path, "pets/cat/1.jpg", "pets/dog/1.jpg")
    proposed = refusal(tmp_path).rpartition("--data ")[2]
    assert scan_folders(Path(proposed)).classes == ("cat", "dog")


def test_a_missing_folder_a_file_and_a_link_to_itself_are_refused(tmp_path):
    touch(tmp_path, "file.jpg")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "file.jpg", "loop"):
        assert refusal(tmp_path / name).startswith(f"{tmp_path / name}: cannot be read (")
    assert "Expected one folder per class" in refusal(tmp_path / "missing")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "cat/1.jpg", "cat/locked/2.jpg", "dog/1.jpg")
    for name in ("listdir", "scandir"):
        is_open = getattr(os, name)

        def refuse_locked(path: Path, is_open: Callable[[Path], Any] = is_open) -> Any:
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied", path)
            return is_open(path)

        monkeypatch.setattr(os, name, refuse_locked)
    index = scan_folders(tmp_path)
    assert names(index) == ["cat/1.jpg", "dog/1.jpg"]
    assert skipped(index) == {"cat/locked": "cannot be read (Permission denied)"}
    assert refusal(tmp_path / "cat" / "locked").startswith(f"{tmp_path}/cat/locked: cannot be read (Permission denied)")


def test_overview_counts_images_or_says_what_is_wrong(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/2.jpg", "horse/1.jpg")
    assert folder_overview(tmp_path) == [f"{tmp_path}: 3 images in 2 classes", "  cat         2", "  horse       1"]
    assert "no class folders" in folder_overview(tmp_path / "cat")[0]
