"""Copies by class: never outside their folder, never over an older file, never into images to learn from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.Destination import Reserved
from MLPipeline.files.SortedCopies import SortedCopies, folder_names


def a_file(folder: Path, name: str, content: bytes = b"pixels") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("t-shirt & co", "t-shirt & co"),
        ("../../x", "_.._x"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("/etc/passwd", "_etc_passwd"),
        ("a\\..\\b", "a_.._b"),
        ("C:", "C_"),
        ("a\x00b\nc", "a_b_c"),
        (".hidden", "hidden"),
        ("dots...", "dots"),
        ("con", "con_"),
        ("LPT1.txt", "LPT1.txt_"),
        ("\ud800", "_"),
        ("_unsure", "_unsure-2"),
        ("Katze 🐈", "Katze 🐈"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_class_gives_a_plain_folder_name(name: str, folder: str) -> None:
    assert folder_names([name]) == [folder]


def test_names_that_would_share_a_folder_are_numbered() -> None:
    assert folder_names(["a/b", "a_b", "A_B", "cat"]) == ["a_b", "a_b-2", "A_B-3", "cat"]


@given(st.lists(st.text(max_size=150), max_size=8))
def test_whatever_classes_are_called_each_has_a_folder_of_its_own_right_below(names: list[str]) -> None:
    folders = folder_names(names)
    assert len({each.casefold() for each in folders} | {"_unsure"}) == len(names) + 1
    root = Path("/copies")
    for each in folders:
        assert Path(os.path.normpath(root / each)).parent == root and Path(each).name == each
        assert 0 < len(os.fsencode(each)) <= 110


def test_copies_lie_by_class_and_originals_stay(tmp_path: Path) -> None:
    copies = SortedCopies(tmp_path / "sorted", ["cat", "../../x"], Reserved([]))
    assert not (tmp_path / "sorted").exists()  # until the first copy
    original = a_file(tmp_path / "new", "1.jpg", b"one")
    assert copies.add(original, "cat") == tmp_path / "sorted" / "cat" / "1.jpg"
    assert copies.add(original, "../../x") == tmp_path / "sorted" / "_.._x" / "1.jpg"
    assert copies.add(original, None) == tmp_path / "sorted" / "_unsure" / "1.jpg"
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert found == ["new/1.jpg", "sorted/_.._x/1.jpg", "sorted/_unsure/1.jpg", "sorted/cat/1.jpg"]
    assert {path.read_bytes() for path in tmp_path.rglob("*.jpg")} == {b"one"}


def test_files_of_one_name_are_numbered_and_nothing_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "sorted"
    older = a_file(root / "cat", "1.jpg", b"older")
    (root / "cat" / "1-2.jpg").symlink_to(tmp_path / "nowhere")  # also where a link leads to nothing
    copies = SortedCopies(root, ["cat"], Reserved([]))
    added = [copies.add(a_file(tmp_path / each, "1.jpg", each.encode()), "cat") for each in ("a", "b")]
    assert [path.name for path in added] == ["1-3.jpg", "1-4.jpg"]
    assert older.read_bytes() == b"older" and not (tmp_path / "nowhere").exists()
    assert [path.read_bytes() for path in added] == [b"a", b"b"]


def test_no_copy_goes_into_images_to_learn_from(tmp_path: Path) -> None:
    data = tmp_path / "Data"
    (data / "cat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    for root in (data, data / "cat" / "sorted", tmp_path / "link", tmp_path / "new" / ".." / "Data"):
        with pytest.raises(UsageError, match=r"--sort-into .*: lies inside the images of .*Data"):
            SortedCopies(root, ["cat"], Reserved([data]))
    with pytest.raises(UsageError, match="lies inside"):  # the class is called as the folder of images
        SortedCopies(tmp_path, ["Data"], Reserved([data]))
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "dog").symlink_to(data / "cat")
    with pytest.raises(UsageError, match="lies inside"):
        SortedCopies(tmp_path / "sorted", ["dog"], Reserved([data]))
    SortedCopies(tmp_path / "Data2", ["cat"], Reserved([data]))


def test_a_copy_that_fails_leaves_no_half_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        target.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("MLPipeline.files.SortedCopies.shutil.copyfileobj", full)
    copies = SortedCopies(tmp_path / "sorted", ["cat"], Reserved([]))
    with pytest.raises(ResourceError, match=r"sorted/cat/1.jpg: cannot be written \(No space left"):
        copies.add(a_file(tmp_path, "1.jpg"), "cat")
    assert not list((tmp_path / "sorted").rglob("*.jpg"))


def test_long_names_that_meet_in_one_folder_are_shortened(tmp_path: Path) -> None:
    name = "猫" * 83 + "x.jpg"  # 254 bytes
    copies = SortedCopies(tmp_path / "sorted", ["cat"], Reserved([]))
    added = [copies.add(a_file(tmp_path / str(number), name, b"%d" % number), "cat") for number in range(12)]
    assert added[0].name == name and added[1].name == "猫" * 83 + "-2.jpg" and added[11].name == "猫" * 82 + "-12.jpg"
    assert [path.read_bytes() for path in added] == [b"%d" % number for number in range(12)]
    assert all(len(os.fsencode(path.name)) <= 255 for path in added)


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200b", "\ufeff", "\xad", "\x1b", "\n"])
def test_what_is_invisible_reaches_no_folder(tmp_path: Path, hidden: str) -> None:
    copies = SortedCopies(tmp_path / "sorted", [f"cat{hidden}s"], Reserved([]))
    copy = copies.add(a_file(tmp_path, f"photo{hidden}gpj.exe"), f"cat{hidden}s")
    assert copy == tmp_path / "sorted" / "cat_s" / "photo_gpj.exe"
