"""Which photographs there are, which of them have a class by their folder, and which are the random sample."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError
from MLPipeline.labelling.LabelFile import Label
from MLPipeline.labelling.Photographs import Photographs, list_photographs
from tests.support.label_cases import draw_photographs

ROOT = Path("photos")


def test_folders_named_like_classes_are_labels_and_split_folders_count(tmp_path: Path) -> None:
    names = ("a.png", "cat/1.png", "cat/more/2.png", "train/cat/3.png", "test/dog/4.png", "2024/5.png", "test/6.png")
    photographs = Photographs(ROOT, names, ())
    labels = [photographs.label_of_folder(number, ("cat", "dog")) for number in range(len(names))]
    cat = Label("cat", "train")
    assert labels == [None, cat, cat, cat, Label("dog", "test"), None, None]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("a.png", "cat/1.png", "dog/2.png"), ["cat", "dog"]),
        (("unlabelled/a.png", "cat/1.png", "dog/2.png"), ["cat", "dog"]),
        (("train/cat/1.png", "train/dog/2.png", "test/3.png"), ["cat", "dog"]),
        (("cat/1.png", "dog/2.png"), []),  # nothing to label: the folders may be anything
        (("a.png", "b.png"), []),
    ],
)
def test_folders_are_suggested_as_classes_where_others_have_none(names: tuple[str, ...], folders: list[str]) -> None:
    assert Photographs(ROOT, names, ()).class_folders() == folders


def test_the_sample_is_always_the_same_and_without_class_folders() -> None:
    names = tuple(f"{number}.png" for number in range(100)) + ("cat/x.png",) * 20
    sample = Photographs(ROOT, names, ()).random_sample(["cat"])
    assert len(sample) == 18 and max(sample) < 100
    assert sample == Photographs(Path("elsewhere"), names, ()).random_sample(["cat"])
    assert sample != sorted(sample)


def test_the_stamp_of_a_photograph_changes_with_its_file(tmp_path: Path) -> None:
    photographs = list_photographs(draw_photographs(tmp_path, 2))
    first = photographs.stamp(0)
    assert first == photographs.stamp(0) != ""
    os.utime(photographs.path(0), (1, 1))
    assert photographs.stamp(0) not in ("", first)
    photographs.path(0).unlink()
    assert photographs.stamp(0) == ""


def test_photographs_of_equal_size_and_time_have_stamps_of_their_own(tmp_path: Path) -> None:
    """As frames of one size have that come out of one archive, which keeps times to two seconds."""
    for folder in ("first", "second"):
        for name in ("a.bmp", "b.bmp"):
            file = tmp_path / folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"BM")
            os.utime(file, (1, 1))
    listed = [list_photographs(tmp_path / folder) for folder in ("first", "second")]
    assert len({photographs.stamp(number) for photographs in listed for number in (0, 1)}) == 4


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"no images there \(left out: 1 x not an image file"):
        list_photographs(tmp_path)
    with pytest.raises(DataError, match="Give a folder of photographs"):
        list_photographs(tmp_path / "missing")
