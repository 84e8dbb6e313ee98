"""Labels on disk: what each file holds after labels, changes, crashes, other programs and missing pictures."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.images.LabelTable import scan_table
from MLPipeline.labelling.LabelFile import Change, Label, LabelFile
from tests.support.label_cases import draw_photographs

NAMES = ("a.png", "b.png", "=c.png")


def label_file(tmp_path: Path) -> LabelFile:
    return LabelFile(tmp_path / "labels" / "labels.csv", tmp_path / "photos")


def rows(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def test_a_new_label_is_appended_and_a_change_replaces_the_file(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        assert file.put([Change("a.png", Label("cat"), "one")])
        inode = os.stat(file.file).st_ino
        assert file.put([Change("=c.png", Label("dög", "test"), "one")])
        assert rows(file.file) == ["path,label,split", "a.png,cat,train", "'=c.png,dög,test"]
        assert os.stat(file.file).st_ino == inode, "appended to"
        assert file.put([Change("a.png", Label("dog"), "two")])
        assert rows(file.file) == ["path,label,split", "'=c.png,dög,test", "a.png,dog,train"]
        assert file.put([Change("=c.png", None, "one")])
        assert rows(file.file) == ["path,label,split", "a.png,dog,train"]
    history = [row.split(",", 1)[1] for row in rows(file.history)]
    assert history == [
        "path,label,split,before,by",
        "a.png,cat,train,,one",
        "'=c.png,dög,test,,one",
        "a.png,dog,train,cat,two",
        "'=c.png,,test,dög,one",
    ]


def test_opening_again_goes_on_with_the_classes_in_their_order(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.add_classes(["zebra", "ant"])
        file.put([Change("a.png", Label("ant", "test"), "one")])
    again = label_file(tmp_path)
    with again.opened(NAMES):
        assert again.classes == ["zebra", "ant"]
        assert again.labels == {"a.png": Label("ant", "test")}


def test_what_it_writes_is_what_labels_trains_on(tmp_path: Path) -> None:
    photographs = draw_photographs(tmp_path / "photos", 4)
    names = sorted(path.name for path in photographs.iterdir())
    file = LabelFile(tmp_path / "labels.csv", photographs)
    with file.opened(names):
        file.put([Change(name, Label("=dog" if "dog" in name else "cat"), "one") for name in names[:3]])
        file.put([Change(names[3], Label("cat", "test"), "one")])
    index = scan_table(file.file, photographs)
    assert index.classes == ("=dog", "cat")
    splits = {index.name(position): int(index.splits[position]) for position in range(4)}
    assert splits == {name: 2 * (name == names[3]) for name in names}


@pytest.mark.parametrize("end", [b"b.png,do", b"b.png,dog,tra", b"\0\0\0", b"b.png,dog,tr\0\0"])
def test_a_row_that_a_crash_has_cut_is_removed(tmp_path: Path, end: bytes) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.put([Change("a.png", Label("cat"), "one")])
    with file.file.open("ab") as opened:
        opened.write(end)
    again = label_file(tmp_path)
    with again.opened(NAMES):
        assert again.labels == {"a.png": Label("cat")}
        again.put([Change("b.png", Label("dog"), "one")])
    assert rows(file.file) == ["path,label,split", "a.png,cat,train", "b.png,dog,train"]


def test_a_last_row_without_line_end_is_kept_if_it_is_complete(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    file.file.parent.mkdir()
    file.file.write_bytes(b"path,label,split\na.png,cat,train\nb.png,dog,test")
    with file.opened(NAMES):
        file.put([Change("=c.png", Label("cat"), "one")])
    assert rows(file.file)[2:] == ["b.png,dog,test", "'=c.png,cat,train"]


def test_a_last_row_with_a_blank_split_is_kept_and_one_without_is_cut_off(tmp_path: Path) -> None:
    for last, expected in ((b"b.png,dog,", Label("dog")), (b"b.png,do", None), (b"b.p", None)):
        file = label_file(tmp_path)
        file.file.parent.mkdir(exist_ok=True)
        file.file.write_bytes(b"path,label,split\na.png,cat,train\n" + last)
        with file.opened(NAMES):
            assert file.labels.get("b.png") == expected and file.labels["a.png"] == Label("cat")


def test_what_a_person_writes_into_the_table_meanwhile_counts_and_stays(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.put([Change("a.png", Label("cat"), "one"), Change("b.png", Label("cat"), "one")])
        file.file.write_text("path,label,split\nb.png,owl,test\nelsewhere.png,dog,train\n")
        file.put([Change("=c.png", Label("cat"), "one")])
        assert file.labels == {
            "b.png": Label("owl", "test"),
            "elsewhere.png": Label("dog"),
            "=c.png": Label("cat"),
        }
        assert file.classes == ["owl", "dog"] and not file.notes
        file.put([Change("b.png", Label("dog"), "one")])  # the last one counts
    assert sorted(rows(file.file)) == [
        "'=c.png,cat,train",
        "b.png,dog,train",
        "elsewhere.png,dog,train",
        rows(file.file)[0],
    ]
    changes = [row.split(",")[1:] for row in rows(file.history)]
    assert ["b.png", "owl", "test", "cat", "edited"] in changes and ["a.png", "", "train", "cat", "edited"] in changes


def test_a_table_that_another_program_has_broken_is_kept_beside_and_said(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.put([Change("a.png", Label("cat"), "one")])
        file.file.write_text("name;what\nb.png;dog\n")
        file.put([Change("=c.png", Label("cat"), "one")])
        (note,) = file.notes
        assert "labels.csv" in note and note.endswith("it is kept as labels.csv.prev, and written again")
    assert rows(file.file) == ["path,label,split", "a.png,cat,train", "'=c.png,cat,train"]
    assert rows(file.file.with_name("labels.csv.prev")) == ["name;what", "b.png;dog"]


def test_the_label_of_a_picture_that_is_gone_comes_back_with_it(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.put([Change("a.png", Label("cat", "test"), "one"), Change("b.png", Label("dog"), "one")])
    second = label_file(tmp_path)
    with second.opened(["b.png"]):
        assert second.notes == ["1 labelled picture is gone, such as a.png: its label is kept"]
        assert rows(file.file) == ["path,label,split", "b.png,dog,train"]
    third = label_file(tmp_path)
    with third.opened(NAMES):
        assert third.labels == {"b.png": Label("dog"), "a.png": Label("cat", "test")}
        assert third.notes == ["1 picture that was gone is back, with its label"]


def test_a_full_disk_keeps_labels_in_memory_until_they_can_be_written(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.opened(NAMES):
        file.put([Change("a.png", Label("cat"), "one")])
        before = file.file.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
            assert not file.put([Change("b.png", Label("dog"), "one")])
            assert not file.put([Change("=c.png", Label("dog"), "one")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "labels.csv: cannot be written (File too large)" in file.problem
        assert file.file.read_bytes() == before, "no part of a row"
        assert file.flush() and file.problem == ""
    assert rows(file.file)[1:] == ["a.png,cat,train", "b.png,dog,train", "'=c.png,dog,train"]
    assert [row.split(",")[1] for row in rows(file.history)] == ["path", "a.png", "b.png", "'=c.png"]


def test_labels_that_cannot_be_written_at_the_end_are_an_error(tmp_path: Path) -> None:
    file = label_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(ResourceError, match=r"1 label is not on disk \(.*File too large"), file.opened(NAMES):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
            file.put([Change("a.png", Label("cat"), "one")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_only_one_process_has_the_labels_open(tmp_path: Path) -> None:
    with (
        label_file(tmp_path).opened(NAMES),
        pytest.raises(ResourceError, match="labels.csv: in use by process"),
        label_file(tmp_path).opened(NAMES),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("path,label,split,group\na.png,cat,train,1\n", "has the columns path, label, split, group"),
        ("path,predicted\na.png,cat\n", "has the columns path, predicted"),
        ("path,label,split\na.png,cat,later\n", "row 2: 'later' is no split"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_table_of_another_kind_is_refused_and_left_alone(tmp_path: Path, content: str, what: str) -> None:
    file = label_file(tmp_path)
    file.file.parent.mkdir()
    file.file.write_text(content)
    with pytest.raises(UsageError, match=what), file.opened(NAMES):
        pass
    assert file.file.read_text() == content


def test_the_labels_of_another_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    file = label_file(tmp_path)
    with file.opened(NAMES):
        file.add_classes(["cat"])
    other = LabelFile(file.file, tmp_path / "other" / "photos")
    what = "has the labels of the photographs in .*photos. Give another --csv"
    with pytest.raises(UsageError, match=what), other.opened(NAMES):
        pass
    (tmp_path / "photos").rename(tmp_path / "moved")
    with LabelFile(file.file, tmp_path / "moved").opened(NAMES):
        pass
