"""Corrected labels: laid over the index, kept when the table is written anew, refused where they make no sense."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.Errors import DataError, UsageError
from MLPipeline.images.Fixes import Fix, apply_fixes, write_fixes
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from tests.conftest import MakeImages
from tests.support.harness import content


@pytest.fixture
def index(tmp_path: Path, make_images: MakeImages) -> ImageIndex:
    return scan_folders(make_images(tmp_path / "Data", {"cat": 3, "dog": 3, "=1+1": 2}))


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "fixes.csv").write_bytes(text.encode(encoding))
    return folder / "fixes.csv"


def labels_of(index: ImageIndex) -> dict[str, str]:
    return {index.name(k): index.classes[label] for k, label in enumerate(index.labels)}


def test_labels_change_and_images_are_left_out(index: ImageIndex, tmp_path: Path) -> None:
    before = content(index.root)
    fixed = apply_fixes(index, table(tmp_path, "path,label\ncat/001.png,dog\ndog/000.png,\n"))
    expected = labels_of(index) | {"cat/001.png": "dog"}
    del expected["dog/000.png"]
    assert labels_of(fixed) == expected
    assert [(each.path, each.reason) for each in fixed.skipped] == [("dog/000.png", "left out by fixes.csv")]
    assert len(fixed.splits) == len(fixed) == 7
    assert content(index.root) == before


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label,given\r\ncat/001.png,dog,cat\r\n", "utf-8"),
        ("path;label\ncat/001.png;dog\n", "utf-8"),  # as spreadsheets write it where a comma parts decimals
        ("path,label\ncat/001.png,dog\n", "utf-8-sig"),
        ("label,note,path\ndog,mine,cat/001.png\n", "utf-8"),
    ],
)
def test_tables_as_spreadsheets_save_them(index: ImageIndex, tmp_path: Path, text: str, encoding: str) -> None:
    assert labels_of(apply_fixes(index, table(tmp_path, text, encoding)))["cat/001.png"] == "dog"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\ncat/001.png,dgo\n", "no class 'dgo'.*Did you mean 'dog'"),
        ("path,label\ncat/999.png,dog\n", "no image 'cat/999.png'"),
        ("path,tag\ncat/001.png,dog\n", "lacks the column path or label"),
        ("", "cannot be read as a table"),
        ('path,label\n"cat', "cannot be read as a table"),
    ],
)
def test_nonsense_is_refused_by_name(index: ImageIndex, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        apply_fixes(index, table(tmp_path, text))


def test_a_missing_table_and_one_that_is_no_text(index: ImageIndex, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--fixes .*nothere.csv: cannot be read"):
        apply_fixes(index, tmp_path / "nothere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        apply_fixes(index, tmp_path / "binary.csv")


def test_a_class_must_keep_an_image(index: ImageIndex, tmp_path: Path) -> None:
    rows = "".join(f"cat/00{k}.png,{label}\n" for k, label in enumerate(["dog", "", "dog"]))
    with pytest.raises(DataError, match="leaves no image to learn 'cat' from"):
        apply_fixes(index, table(tmp_path, "path,label\n" + rows))


def fixes_of(*names: str) -> list[Fix]:
    return [Fix(name, name.split("/")[0], name.split("/")[0], "dog", 0.9) for name in names]


def test_an_untouched_table_changes_nothing(index: ImageIndex, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    assert write_fixes(file, fixes_of("cat/001.png", "=1+1/000.png")) == []
    assert labels_of(apply_fixes(index, file)) == labels_of(index)


def test_what_people_decided_outlives_the_next_audit(index: ImageIndex, tmp_path: Path) -> None:
    file = tmp_path / "fixes.csv"
    write_fixes(file, fixes_of("cat/000.png", "cat/001.png", "cat/002.png"))
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    rows.loc[0, "label"], rows.loc[1, "label"] = "dog", ""
    rows.to_csv(file, index=False)
    kept = write_fixes(file, fixes_of("cat/001.png", "=1+1/000.png"))
    assert [(row["path"], row["label"], row["given"], row["confidence"]) for row in kept] == [
        ("cat/000.png", "dog", "cat", "0.9"), ("cat/001.png", "", "cat", "0.9")
    ]  # fmt: skip
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    assert rows[["path", "label"]].values.tolist() == [
        ["cat/000.png", "dog"], ["cat/001.png", ""], ["'=1+1/000.png", "'=1+1"]
    ]  # fmt: skip
    assert len(apply_fixes(index, file)) == len(index) - 1


def test_names_that_are_no_utf8(tmp_path: Path, make_images: MakeImages) -> None:
    root = make_images(tmp_path / "Data", {"cat": 2, "dog": 2})
    os.rename(root / "cat/000.png", os.fsencode(root) + b"/cat/\xff\n.png")
    index = scan_folders(root)
    name = next(index.name(k) for k in range(len(index)) if "\udcff" in index.name(k))
    file = tmp_path / "fixes.csv"
    write_fixes(file, [Fix(name, "dog", "cat", "dog", 0.9)])
    assert labels_of(apply_fixes(index, file))[name] == "dog"


def test_given_splits_stay_with_their_images(tmp_path: Path, make_images: MakeImages) -> None:
    folders = {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1}
    index = scan_folders(make_images(tmp_path / "Data", folders))
    fixed = apply_fixes(index, table(tmp_path, "path,label\ntrain/cat/000.png,\ntest/dog/000.png,cat\n"))
    found = {fixed.name(k): (int(fixed.splits[k]), int(fixed.labels[k])) for k in range(len(fixed))}
    assert found["test/dog/000.png"] == (2, 0) and found["train/dog/001.png"] == (0, 1)
    assert np.array_equal(np.sort(fixed.splits), [0, 0, 0, 2, 2])


GIVEN = [
    ("path,label,given\ncat/001.png,dog,dog\n", "row 2: `given` is 'dog', but 'cat/001.png' is labelled 'cat'"),
    ("path,label,given\ncat/001.png,dog,cat\ndog/001.png,cat,Dog\n", "row 3: `given` is 'Dog', but 'dog/001.png'"),
    ("path,label\ncat/001.png,dog\ncat/001.png,cat\n", "rows 2 and 3 give 'cat/001.png' two labels, 'dog' and 'cat'"),
    ("path,label\ncat/001.png,dog\ncat/001.png,\n", "rows 2 and 3 give 'cat/001.png' two labels, 'dog' and ''"),
    ("path,label,label\ncat/001.png,dog,cat\n", "row 1 names two columns label"),
    ("path,Label,label\ncat/001.png,dog,cat\n", "row 1 names two columns label"),
    ("path,label\ncat/001.png,dog\ncat/999.png,dog\n", "no image 'cat/999.png' in .*, as row 3 says"),
    ("path,label\ncat/001.png,dgo\n", "no class 'dgo', as in row 2"),
    ("path,label\ncat/001.png,dog,\ncat/002.png,a, b\n", "row 3 has 3 cells"),
]


@pytest.mark.parametrize(("text", "words"), GIVEN)
def test_rows_that_contradict_are_refused_by_number(index: ImageIndex, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        apply_fixes(index, table(tmp_path, text))


def test_a_row_may_come_twice_if_it_says_the_same(index: ImageIndex, tmp_path: Path) -> None:
    fixed = apply_fixes(index, table(tmp_path, "path,label\ncat/001.png,dog\ncat/001.png,dog\n"))
    assert labels_of(fixed)["cat/001.png"] == "dog"


def test_a_given_that_is_empty_says_nothing(index: ImageIndex, tmp_path: Path) -> None:
    fixed = apply_fixes(index, table(tmp_path, "path,label,given\ncat/001.png,dog,\n"))
    assert labels_of(fixed)["cat/001.png"] == "dog"


@pytest.fixture
def signed(tmp_path: Path, make_images: MakeImages) -> ImageIndex:
    return scan_folders(make_images(tmp_path / "Signed", {"007": 2, "7": 3, "-1": 3, "nan": 3}))


@pytest.mark.parametrize("path", ["-1/001.png", "'-1/001.png"])
@pytest.mark.parametrize("given", ["-1", "'-1"])
def test_a_leading_sign_may_have_an_apostrophe_or_not(
    signed: ImageIndex, tmp_path: Path, path: str, given: str
) -> None:
    fixed = apply_fixes(signed, table(tmp_path, f"path,label,given\n{path},7,{given}\n7/000.png,{given},7\n"))
    expected = labels_of(signed) | {"-1/001.png": "7", "7/000.png": "-1"}
    assert labels_of(fixed) == expected


def test_a_spreadsheet_that_drops_zeros_is_found_out(signed: ImageIndex, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="row 2: `given` is '7', but '007/000.png' is labelled '007'"):
        apply_fixes(signed, table(tmp_path, "path,label,given\n007/000.png,7,7\n"))
    assert labels_of(apply_fixes(signed, table(tmp_path, "path,label\n7/001.png,nan\n")))["7/001.png"] == "nan"


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_or_not(tmp_path: Path, make_images: MakeImages, on_disk: str, in_table: str) -> None:
    cafe, the = (unicodedata.normalize(on_disk, name) for name in ("Caf\u00e9", "th\u00e9"))
    index = scan_folders(make_images(tmp_path / "Data", {cafe: 2, the: 2}))
    text = unicodedata.normalize(in_table, "path,label,given\nCaf\u00e9/001.png,th\u00e9,Caf\u00e9\n")
    fixed = apply_fixes(index, table(tmp_path, text))
    assert labels_of(fixed)[f"{cafe}/001.png"] == "th\u00e9"


def test_a_pipe_is_refused_at_once(index: ImageIndex, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UsageError, match="--fixes .*pipe.csv: is a device or a pipe"):
        apply_fixes(index, tmp_path / "pipe.csv")
