"""Labels from a table: which file each row means, and what is refused by its row."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.Errors import DataError, UsageError
from MLPipeline.images.LabelTable import scan_table
from MLPipeline.images.ScanFolders import SPLITS, ImageIndex

FILES = ["img/1.jpg", "img/2.png", "img/10.jpg", "img/x.JPG"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def scan(root: Path, text: str, name: str = "labels.csv", data: str = "", **options: object) -> ImageIndex:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return scan_table(root / name, root / data, **options)


def labels(index: ImageIndex) -> dict[str, str]:
    return {index.name(k): index.classes[label] for k, label in enumerate(index.labels)}


def refusal(root: Path, text: str, **options: object) -> str:
    with pytest.raises((UsageError, DataError)) as caught:
        scan(root, text, **options)
    return str(caught.value)


EXPECTED = {"img/1.jpg": "cat", "img/2.png": "dog"}


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nimg/1.jpg,cat\nimg/2.png,dog\n",
        "image_id;class\n1;cat\n2;dog\n",
        "id\ttarget\nimg/1\tcat\nimg/2\tdog\n",
        "label,File Name\ncat,1.jpg\ndog,2.png\n",
        "filename,category\n.\\img\\1.jpg,cat\nimg//2.png,dog\n",
        "Image,Label\n./img/1.jpg,cat\nimg/../img/2.png,dog\n",
        "id,path,label,width\n900,img/1.jpg,cat,7\n901,img/2.png,dog,7\n",
    ],
)
def test_rows_find_their_files_under_the_names_that_tables_have(root: Path, text: str) -> None:
    assert labels(scan(root, text)) == EXPECTED


def test_absolute_paths_are_found(root: Path) -> None:
    assert labels(scan(root, f"path,label\n{root}/img/1.jpg,cat\n{root}/img/2.png,dog\n")) == EXPECTED


@pytest.mark.parametrize(
    ("name", "data", "prefix"),
    [
        ("labels.csv", "img", ""),  # relative to --data
        ("labels.csv", "img", "img/"),  # relative to the table
        ("meta/labels.csv", "", "img/"),  # relative to --data
        ("meta/labels.csv", "", "../img/"),  # relative to the table
    ],
)
def test_paths_are_relative_to_data_or_to_the_table(root: Path, name: str, data: str, prefix: str) -> None:
    index = scan(root, f"path,label\n{prefix}1.jpg,cat\n{prefix}2.png,dog\n", name, data)
    assert labels(index) == {k.removeprefix(f"{data}/"): v for k, v in EXPECTED.items()}
    assert all(index.path(position).exists() for position in range(2))


def test_images_come_in_natural_order_and_those_not_listed_are_left_out(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = scan(root, "path,label\nimg/10.jpg,b\nimg/2.png,a\nimg/1.jpg,a\n")
    assert [index.name(k) for k in range(3)] == ["img/1.jpg", "img/2.png", "img/10.jpg"]
    assert (index.labels.dtype, index.splits.tolist(), index.groups) == (np.int32, [-1, -1, -1], None)
    assert (
        "path from 'path', label from 'label'" in caplog.text and f"1 images below {root} are not in it" in caplog.text
    )


def test_names_of_classes_stay_as_they_are_written(root: Path) -> None:
    names = ["007", "7", "None", "nan", "NA", "true", "1e5", "-1", "", "two\nlines"]
    for number in range(len(names)):
        (root / f"{number}.jpg").touch()
    for name in (each for each in names if each):
        others = [each for each in names if each and each != name][:1]
        index = scan(root, f'path,label\n0.jpg,"{name}"\n1.jpg,"{others[0]}"\n')
        assert labels(index) == {"0.jpg": name, "1.jpg": others[0]}


def test_splits_by_word_and_groups(root: Path) -> None:
    index = scan(
        root,
        "path,label,Split,group\nimg/1.jpg,a,Training,p1\nimg/2.png,b,train,p1\nimg/10.jpg,a,PublicTest,p2\n"
        "img/x.JPG,b,validation,\n",
    )
    assert [SPLITS[split] for split in index.splits] == ["train", "train", "test", "val"]
    assert index.groups is not None
    assert index.groups[0] == index.groups[1] != index.groups[2] and index.groups[3] == -1


def test_groups_are_one_whatever_their_spelling_and_blank_cells_are_none(root: Path) -> None:
    rows = zip(FILES, ["Jos\u00e9 1", " Jose\u0301  1 ", "jos\u00e9 1", " "], strict=True)
    index = scan(root, "path,label,group\n" + "".join(f"{name},{name[4]},{group}\n" for name, group in rows))
    assert index.groups is not None
    groups = dict(zip((index.name(k) for k in range(4)), index.groups.tolist(), strict=True))
    assert len({groups[name] for name in FILES[:3]}) == 1 and groups[FILES[0]] >= 0 and groups[FILES[3]] == -1


def test_a_column_called_set_is_a_split_only_where_it_holds_splits(root: Path) -> None:
    index = scan(root, "path,label,set\nimg/1.jpg,a,train\nimg/2.png,b,train\nimg/10.jpg,a,test\n")
    assert [SPLITS[split] for split in index.splits] == ["train", "train", "test"]
    index = scan(root, "path,label,set\nimg/1.jpg,a,castle\nimg/2.png,b,city\n")
    assert index.splits.tolist() == [-1, -1]


def test_the_columns_of_a_table_of_playing_cards(root: Path) -> None:
    table = "class index,filepaths,labels,card type,data set\n0,img/1.jpg,a,x,train\n1,img/2.png,b,y,train\n"
    index = scan(root, table + "1,img/10.jpg,b,y,valid\n")
    assert labels(index) == {"img/1.jpg": "a", "img/2.png": "b", "img/10.jpg": "b"}
    assert [SPLITS[split] for split in index.splits] == ["train", "train", "val"]


@pytest.mark.parametrize(
    ("one", "other", "shown"), [("0", "2", "'0'"), ("train", "", "''"), ("test", "extra", "'extra'")]
)
def test_a_column_that_looks_like_splits_and_is_not_used_is_named(
    root: Path, caplog: pytest.LogCaptureFixture, one: str, other: str, shown: str
) -> None:
    index = scan(root, f"path,label,partition\nimg/1.jpg,a,{one}\nimg/2.png,b,{other}\n")
    assert index.splits.tolist() == [-1, -1]
    assert f"splits are not from 'partition', where {shown} is none" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nimg/1.jpg,a\nnope.jpg,b\nimg/2.png,b\n", ["no image below", "row 3 ('nope.jpg')", "--data"]),
        ("path,label\nimg/1.jpg,a\nimg/2.png,\nimg/10.jpg, \n", ["rows 3, 4 have no label"]),
        ("path,label\nimg/1.jpg,a\n,b\n", ["row 3 has no path"]),
        ("path,label\nimg/1.jpg,a\nimg/2.png,b\nimg/1.jpg,b\n", ["rows 2 and 4", "'img/1.jpg'", "'a' and 'b'"]),
        ("id,label\n1,a\n2,b\n1.jpg,b\n", ["rows 2 and 4", "'a' and 'b'"]),
        ("path,label,split\nimg/1.jpg,a,train\nimg/1.jpg,a,test\n", ["rows 2 and 3", "'train' and 'test'"]),
        ("path,label,split\nimg/1.jpg,a,train\nimg/2.png,b,third\n", ["row 3", "'third' is no split"]),
        ("path,label,split\nimg/1.jpg,a,train\nimg/2.png,b,\n", ["row 3 has no split"]),
        ("path,label,split\nimg/1.jpg,a,train\nimg/2.png,b,test\n", ["class 'b' has no training images"]),
        ("path,tag\nimg/1.jpg,a\n", ["lacks a column label (or class, target, category)", "it has 'path', 'tag'"]),
        ("url,label\nimg/1.jpg,a\n", ["lacks a column path", "it has 'url', 'label'"]),
        ("path,label,class\nimg/1.jpg,a,b\n", ["'label' and 'class' may both hold the labels"]),
        ("path,label,Label\nimg/1.jpg,a,b\n", ["two columns are called 'Label'"]),
        ("image,MEL,NV,BCC\nimg/1.jpg,1.0,0.0,0.0\nimg/2.png,0.0,1.0,0.0\n", ["3 columns of 0 and 1", "'MEL'"]),
        ("path,label\nimg/1.jpg,a\nimg/2.png,a\n", ["has only the class 'a', and two are needed"]),
        ("path,label\nimg/1.jpg,a\nimg/2.png,a \nimg/10.jpg,b\n", ["'a' and 'a ' differ only in spelling"]),
        ("path,label\n", ["has no rows"]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(root: Path, text: str, words: list[str]) -> None:
    error = refusal(root, text)
    assert [word for word in words if word not in error] == [] and error.startswith(f"--labels {root}/labels.csv: ")


def test_a_row_that_fits_two_files_is_refused(root: Path) -> None:
    (root / "other").mkdir()
    (root / "other" / "1.jpg").touch()
    assert "row 2 fits two files, 'img/1.jpg' and 'other/1.jpg'" in refusal(root, "id,label\n1,a\n2,b\n")
    assert labels(scan(root, "id,label\nimg/1,a\n2,b\n")) == {"img/1.jpg": "a", "img/2.png": "b"}


def test_a_whole_path_wins_over_a_name(root: Path) -> None:
    (root / "1.jpg").touch()
    assert labels(scan(root, "path,label\n1.jpg,a\nimg/1.jpg,b\n")) == {"1.jpg": "a", "img/1.jpg": "b"}


def test_repeated_rows_with_one_label_count_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = scan(root, "path,label\nimg/1.jpg,a\nimg/2.png,b\nimg/1.jpg,a\n")
    assert len(index) == 2 and "repeated with the same label 1 times, as in row 4" in caplog.text


def test_files_that_cannot_be_used_are_skipped_and_not_missing(root: Path) -> None:
    (root / "img" / "3.heic").touch()
    (root / "img" / "readme.txt").touch()
    index = scan(root, "path,label\nimg/1.jpg,a\nimg/2.png,b\nimg/3.heic,b\n")
    assert len(index) == 2
    assert [(each.path, each.reason) for each in index.skipped] == [("img/3.heic", "HEIC: convert to JPEG or PNG")]


def test_accents_may_be_composed_in_one_place_and_not_in_the_other(root: Path) -> None:
    (root / unicodedata.normalize("NFD", "Café.jpg")).touch()
    index = scan(root, "path,label\nCafé.jpg,Café\nimg/1.jpg,Cafe\n")
    assert index.classes == ("Cafe", "Café") and index.path(0).exists()


def test_labels_are_matched_to_the_classes_of_a_model(root: Path) -> None:
    classes = ("bird", "cat", "dog")
    index = scan(root, "path,label\nimg/1.jpg,dog\n", known_classes=classes)
    assert (index.classes, index.labels.tolist()) == (classes, [2])
    error = refusal(root, "path,label\nimg/1.jpg,dog\nimg/2.png,dgo\n", known_classes=classes)
    assert "the model knows no class 'dgo', as in row 3. Did you mean 'dog'?" in error


def test_a_folder_that_is_not_there(root: Path) -> None:
    assert "cannot be read" in refusal(root, "path,label\n1.jpg,a\n", data="missing").replace("--labels ", "")


def test_a_parquet_table_says_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pyarrow")
    caplog.set_level(logging.INFO)
    frame = pd.DataFrame({"image_id": [1, 2], "target": ["007", None]})
    frame.to_parquet(root / "t.parquet")
    with pytest.raises(UsageError, match="row 2 has no label"):
        scan_table(root / "t.parquet", root)
    frame.assign(target=[3, 14]).to_parquet(root / "t.parquet")
    assert labels(scan_table(root / "t.parquet", root)) == {"img/1.jpg": "3", "img/2.png": "14"}


def test_links_out_of_the_folder_are_the_reason_given(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path_factory.mktemp("elsewhere") / "9.jpg").touch()
    (root / "img" / "9.jpg").symlink_to(tmp_path_factory.getbasetemp() / "elsewhere0" / "9.jpg")
    text = "id,label\n1,a\n2,a\n9,b\n"
    assert "1 x link leads out of the data folder: only with --follow-links" in refusal(root, text)
    assert labels(scan(root, text, follow_links=True))["img/9.jpg"] == "b"


def test_empty_rows_are_no_rows(root: Path) -> None:
    assert labels(scan(root, "path,label\nimg/1.jpg,cat\n,\n\nimg/2.png,dog\n,\n")) == EXPECTED
