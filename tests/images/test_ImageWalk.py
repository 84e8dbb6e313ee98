"""Links, cycles and things that are no files: the walk ends, takes each image once, and lists what it left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError
from MLPipeline.images.ImageWalk import ImageWalk, Skipped, count_reasons, natural_order
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders

LEADS_OUT = "link leads out of the data folder: only with --follow-links"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data folder: cat/1.jpg and dog/1.jpg; beside it elsewhere/2.jpg."""
    for name in ("Data/cat/1.jpg", "Data/dog/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path / "Data"


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def found(index: ImageIndex) -> dict[str, str]:
    return {index.name(position): index.classes[label] for position, label in enumerate(index.labels)}


def skipped(index: ImageIndex) -> dict[str, str]:
    return {each.path: each.reason for each in index.skipped}


PLAIN = {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("name, target, reason", [
    ("cat/up", "..", "linked again"),
    ("cat/self", ".", "linked again"),
    ("cat/friend", "../dog", "linked again"),
    ("ape", "dog", "linked again"),  # before dog in order: the real folder must still win
    ("cat/loop", "loop", "not an image file (no suffix)"),
    ("cat/loop.jpg", "loop.jpg", "cannot be read (Too many levels of symbolic links)"),
    ("cat/gone.jpg", "nothing.jpg", "cannot be read (No such file or directory)"),
    ("loop", "loop", "not in a class folder"),
])  # fmt: skip
def test_links_in_circles_end_and_leave_the_classes_alone(root, name, target, reason, follow_links):
    link(root / name, target)
    index = scan_folders(root, follow_links)
    assert found(index) == PLAIN
    assert skipped(index) == {name: reason}


def test_circles_through_the_outside_end(root):
    link(root / "cat/out", root.parent)
    index = scan_folders(root, follow_links=True)
    assert found(index) == PLAIN and skipped(index) == {"cat/out": "linked again"}
    link(root.parent / "elsewhere/back", root.parent / "elsewhere")
    link(root / "dog/out", root.parent / "elsewhere")
    assert found(scan_folders(root, follow_links=True)) == PLAIN | {"dog/out/2.jpg": "dog"}


def test_links_that_leave_the_root_need_the_flag(root):
    link(root / "cat/2.jpg", root.parent / "elsewhere/2.jpg")
    link(root / "dog/more", root.parent / "elsewhere")
    link(root / "emu", "../elsewhere")
    index = scan_folders(root)
    assert found(index) == PLAIN
    assert skipped(index) == dict.fromkeys(["cat/2.jpg", "dog/more", "emu"], LEADS_OUT)
    index = scan_folders(root, follow_links=True)
    # The folder itself once only: by its first name.
    assert found(index) == PLAIN | {"cat/2.jpg": "cat", "dog/more/2.jpg": "dog"}
    assert skipped(index) == {"emu": "linked again"}


def test_split_folders_that_lead_out_need_the_flag(root, tmp_path):
    link(tmp_path / "Split/train", "../Data")
    with pytest.raises(DataError, match=f"no class has images .left out: 2 x {LEADS_OUT}"):
        scan_folders(tmp_path / "Split")
    index = scan_folders(tmp_path / "Split", follow_links=True)
    assert found(index) == {f"train/{name}": label for name, label in PLAIN.items()}


def test_links_into_a_pool_inside_the_root_are_used(root):
    (root / ".pool/emu").mkdir(parents=True)
    (root / ".pool/emu/1.jpg").touch()
    link(root / "emu", ".pool/emu")
    link(root / "cat/2.jpg", "../.pool/emu/1.jpg")
    assert found(scan_folders(root)) == PLAIN | {"emu/1.jpg": "emu", "cat/2.jpg": "cat"}


def test_the_data_folder_may_be_a_link_and_hold_nothing_but_links(root, tmp_path):
    link(tmp_path / "linked", "Data")
    assert found(scan_folders(tmp_path / "linked")) == PLAIN
    link(tmp_path / "links/cat", root / "cat")
    link(tmp_path / "links/dog", root / "dog")
    assert found(scan_folders(tmp_path / "links", follow_links=True)) == PLAIN


def test_two_splits_that_are_one_folder_share_no_image(root, tmp_path):
    link(tmp_path / "Split/test", "train")
    root.rename(tmp_path / "Split/train")
    index = scan_folders(tmp_path / "Split")
    assert found(index) == {f"train/{name}": label for name, label in PLAIN.items()}
    assert skipped(index) == {"test/cat": "linked again", "test/dog": "linked again"}


def test_what_is_no_file_is_never_opened(root):
    os.mkfifo(root / "cat/fifo.jpg")
    link(root / "cat/zero.jpg", "/dev/zero")
    link(root / "cat/pipe.jpg", "fifo.jpg")
    (root / "cat/folder.jpg").mkdir()
    (root / "cat/folder.jpg/3.jpg").touch()
    for follow_links in (False, True):
        index = scan_folders(root, follow_links)
        assert found(index) == PLAIN | {"cat/folder.jpg/3.jpg": "cat"}
        reasons = dict.fromkeys(["cat/fifo.jpg", "cat/pipe.jpg", "cat/zero.jpg"], "not a regular file")
        assert skipped(index) == (reasons if follow_links else reasons | {"cat/zero.jpg": LEADS_OUT})


def test_a_walk_of_its_own_follows_links_that_lead_elsewhere_only(root, tmp_path):
    link(root / "again", "cat")
    link(root / "more", "../elsewhere")
    link(tmp_path / "linked", "Data")
    for start in (root, tmp_path / "linked"):
        walk = ImageWalk(start, follow_links=True)
        assert [path.relative_to(start).as_posix() for path in walk.images(start)] == [
            "cat/1.jpg",
            "dog/1.jpg",
            "more/2.jpg",
        ]
        assert walk.skipped == [Skipped("again", "linked again")]


def test_natural_order_of_digits_letters_and_case():
    in_order = ["", "1", "02", "2", "10", "a", "A1", "a1²3", "B", "b1c2", "b1c10", "b٣"]
    assert sorted(reversed(in_order), key=natural_order) == in_order
    assert natural_order("٠٣") < natural_order("4") and natural_order("000") < natural_order("01")
    assert natural_order("9" * 5000) < natural_order("1" + "0" * 5000)  # more digits than Python converts


def test_reasons_are_counted_the_most_frequent_first():
    reasons = ["rare", *["often"] * 3, *["twice"] * 2, "c", "d", "e", "f"]
    assert count_reasons(Skipped("x", reason) for reason in reasons) == ("3 x often, 2 x twice, 1 x rare, 1 x c, 1 x d")
    assert count_reasons([]) == ""
