"""A review: suspects in their order, decisions as a table that `--fixes` takes, going on where it ended."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.images.Fixes import Fix, apply_fixes
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Review import Review

CLASSES = ("cat", "dog")
SUSPECTS = [Fix(f"cat/00{number}.png", "cat", "cat", "dog", 0.9) for number in range(3)]


@pytest.fixture
def root(tmp_path: Path, make_images) -> Path:
    return make_images(tmp_path / "Data", {"cat": 4, "dog": 4}, size=6)


def review_of(root: Path, suspects: list[Fix] = SUSPECTS) -> Review:
    photographs = Photographs(root, tuple(each.path for each in suspects), ())
    return Review(photographs, CLASSES, suspects, root.parent / "labels" / "fixes.csv")


def decide(review: Review, *names: str, page: str = "page") -> None:
    for name in names:
        (picture,) = review.next(page, 1)
        assert review.label(page, [(picture.number, picture.stamp)], name) == ""


def test_decisions_are_fixes_that_change_the_labels(root: Path) -> None:
    review = review_of(root)
    with review.opened():
        (picture, *_) = review.next("page", 3)
        assert (picture.name, picture.given, picture.proposals) == ("cat/000.png", "cat", (("dog", 0.9),))
        decide(review, "dog", "cat")
        assert review.progress().line == "2 of 3 decided · 1 corrected"
    assert review.file.read_text().splitlines() == [
        "path,label,given,suggested,confidence",
        "cat/000.png,dog,cat,dog,0.9",
        "cat/001.png,cat,cat,dog,0.9",
    ]
    index = apply_fixes(scan_folders(root), review.file)
    labels = {index.name(position): index.classes[index.labels[position]] for position in range(len(index))}
    assert [name for name, label in labels.items() if not name.startswith(label)] == ["cat/000.png"]
    assert np.bincount(index.labels).tolist() == [3, 5]


def test_opening_again_goes_on_and_keeps_the_earlier_decisions(root: Path) -> None:
    with review_of(root).opened():
        pass
    review_of(root).file.write_text("path,label,given\ndog/001.png,cat,dog\ncat/000.png,cat,cat\n")
    review = review_of(root)
    with review.opened():
        assert [picture.name for picture in review.next("page", 5)] == ["cat/001.png", "cat/002.png"]
        decide(review, "dog")
    rows = review.file.read_text().splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [
        ["dog/001.png", "cat", "dog"],
        ["cat/000.png", "cat", "cat"],
        ["cat/001.png", "dog", "cat"],
    ]


def test_what_a_person_writes_into_the_table_meanwhile_stays(root: Path) -> None:
    review = review_of(root)
    with review.opened():
        decide(review, "dog")
        text = review.file.read_text().replace("cat/000.png,dog", "cat/000.png,cat")
        review.file.write_text(f"{text}dog/003.png,cat,dog,,\n")
        decide(review, "dog")
        rows = [row.split(",")[:2] for row in review.file.read_text().splitlines()[1:]]
        assert rows == [["cat/000.png", "cat"], ["dog/003.png", "cat"], ["cat/001.png", "dog"]]
        (again,), _ = review.undo("page")
        assert again.name == "cat/001.png"
        assert review.undo("page") == ([], "another page has changed that label since")
        review.file.write_text("path,label\ncat/002.png,dog\n")
    assert [row.split(",")[:2] for row in review.file.read_text().splitlines()[1:]] == [["cat/002.png", "dog"]]


def test_a_table_that_is_none_any_more_is_not_replaced(root: Path) -> None:
    review = review_of(root)
    with pytest.raises(UsageError, match=r"fixes\.csv"), review.opened():
        review.file.write_text("notes\n")
        with pytest.raises(UsageError, match=r"fixes\.csv"):
            decide(review, "dog")
    assert review.file.read_text() == "notes\n"


def test_the_corrections_that_the_run_was_trained_with_come_first(root: Path) -> None:
    earlier = root.parent / "old.csv"
    earlier.write_text("path,label\ncat/002.png,dog\n")
    review = review_of(root)
    with review.opened(earlier):
        decide(review, "dog")
    assert [row.split(",")[:2] for row in review.file.read_text().splitlines()[1:]] == [
        ["cat/002.png", "dog"],
        ["cat/000.png", "dog"],
    ]
    assert earlier.read_text() == "path,label\ncat/002.png,dog\n"


def test_two_pages_decide_different_pictures_and_undo_their_own(root: Path) -> None:
    review = review_of(root)
    with review.opened():
        (one,), (other,) = review.next("one", 1), review.next("two", 1)
        assert one.number != other.number
        review.label("one", [(one.number, one.stamp)], "dog")
        review.label("two", [(one.number, one.stamp)], "cat")
        assert review.undo("one") == ([], "another page has changed that label since")
        (again,), _ = review.undo("two")
        assert again.number == one.number and review.progress().line == "1 of 3 decided · 1 corrected"
        assert review.undo("two") == ([], "nothing to undo")


def test_pictures_that_are_gone_and_classes_that_are_none(root: Path) -> None:
    review = review_of(root)
    with review.opened():
        (picture,) = review.next("page", 1)
        (root / picture.name).unlink()
        assert review.label("page", [(picture.number, picture.stamp)], "dog").endswith("has changed or is gone")
        with pytest.raises(UsageError, match="no class 'emu'"):
            review.label("page", [(1, "")], "emu")
        with pytest.raises(UsageError, match="the classes of its run"):
            review.add_classes(["emu"])
        assert review.progress().line.startswith("0 of 3 decided")
        assert review.progress().notes == ("cat/000.png: the file has changed or is gone",)


def test_a_full_disk_is_said_and_the_decision_written_later(root: Path) -> None:
    review = review_of(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with review.opened():
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
            decide(review, "dog")
            assert "fixes.csv: cannot be written (File too large)" in review.progress().problem
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert review.progress().problem == ""
    assert "cat/000.png,dog,cat" in review.file.read_text()
    with pytest.raises(ResourceError, match="fixes.csv: in use"), review.opened(), review_of(root).opened():
        pass
