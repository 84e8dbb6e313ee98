"""Rows 75 to 83 of the fault matrix: split folders, class names, tables of labels, corrected labels."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from MLPipeline.commands.Verbs import VERBS
from tests.support.harness import SMALL, Outcome, refuse, succeed

MakeImages = Callable[..., Path]
Make = Callable[[Mapping[str, int]], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "Data"


@pytest.fixture
def flags(data: Path, tmp_path: Path) -> list[str | Path]:
    return [*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output"]


@pytest.fixture
def make(data: Path, make_images: MakeImages) -> Make:
    return lambda classes: make_images(data, classes)


def splits_of(flags: list[str | Path]) -> pd.DataFrame:
    return pd.read_csv(Path(flags[-1]) / "001-cnn" / "splits.csv", dtype=str, keep_default_na=False)


def table(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_075_split_folders_by_word(flags: list[str | Path], make: Make) -> None:
    """Folders like `training_set` and `test_set`: recognised as splits by their words."""
    make({f"{split}/{name}": number for split, number in (("training_set", 12), ("test_set", 4)) for name in "ab"})
    outcome = succeed(flags)
    assert "2 classes" in outcome.out
    splits = splits_of(flags)
    assert splits.groupby("split").size().to_dict() == {"train": 20, "val": 4, "test": 8}
    assert (splits["path"].str.startswith("test_set/") == (splits["split"] == "test")).all()


def test_076_train_beside_class_folders(flags: list[str | Path], make: Make) -> None:
    """`train` beside class folders: exit code 2 with the two flags that say what is meant."""
    make({"train/steam": 4, "train/diesel": 4, "car": 4, "bus": 4})
    refuse(flags, 2, "'train' lies beside", "'bus', 'car'", "--split-folders yes", "--split-folders no")
    outcome = succeed([*flags[:-2], "--split-folders", "no", *flags[-2:]])
    assert "3 classes" in outcome.out and set(splits_of(flags)["class"]) == {"train", "car", "bus"}
    settings = json.loads((Path(flags[-1]) / "001-cnn" / "config.json").read_text())
    assert settings["split_folders"] == "no"


@pytest.mark.parametrize("names", [("valid", "invalid"), ("test tube", "beaker", "flask")])
def test_076_classes_named_like_splits(flags: list[str | Path], make: Make, names: tuple[str, ...]) -> None:
    """Classes named like splits (`valid` and `invalid`): exit code 2 with the flag that makes them classes."""
    make(dict.fromkeys(names, 3))
    for verb in ([], ["audit", "--data", flags[-3], "--output", flags[-1]]):
        refuse(verb or flags, 2, f"{names[0]!r} lies beside", "--split-folders no")


def test_077_a_test_folder_without_classes(flags: list[str | Path], make: Make, data: Path) -> None:
    """A test folder without class folders: noted as unlabelled; test images are taken from training."""
    make({"train/round": 12, "train/square": 12, "valid/round": 3, "valid/square": 3, "test": 5})
    outcome = succeed(flags)
    assert any(f"python Engine.py predict {data / 'test'}" in note for note in outcome.notes)
    assert any("no images in a test folder: 15 % of train taken" in note for note in outcome.notes)
    splits = splits_of(flags)
    assert not splits["path"].str.startswith("test/").any()
    assert splits.groupby("split").size().to_dict() == {"train": 20, "val": 6, "test": 4}


def test_078_names_that_differ_by_a_blank(flags: list[str | Path], make: Make) -> None:
    """Class names that differ by blanks or invisible characters: exit code 2 with both, escaped."""
    make({"round": 3, "round\u00a0": 3, "square": 3})
    refuse(flags, 2, "'round' and 'round\\xa0'", "Rename or merge one")


def test_079_082_accents_encoded_in_two_ways(flags: list[str | Path], make: Make, data: Path, tmp_path: Path) -> None:
    """Accents composed in one place and decomposed in another: matched in folders, tables and runs."""

    def named(form: str, *names: str) -> list[str]:
        return [unicodedata.normalize(form, name) for name in names]

    cafe, the = "Caf\u00e9", "th\u00e9"
    make({f"train/{name}": 10 for name in named("NFC", cafe, the)})
    make({f"test/{name}": 8 for name in named("NFD", cafe, the)})
    succeed(flags)
    splits = splits_of(flags)
    assert (splits["split"] == "test").sum() == 16 and set(splits["class"]) == {cafe, the}
    output = ["--output", flags[-1]]
    assert json.loads(succeed(["evaluate", *output, "--json"]).out)["n"] == 16
    assert json.loads(succeed(["evaluate", *output, "--data", data, "--json"]).out)["n"] == 16
    path, label = named("NFC", f"test/{cafe}/000.png", the)
    fixes = table(tmp_path, "fixes.csv", f"path,label,given\n{path},{label},{named('NFD', cafe)[0]}\n")
    succeed([*flags[:-2], "--fixes", fixes, *output])
    second = Path(flags[-1]) / "002-cnn"
    assert (
        json.loads(succeed(["evaluate", *output, "--json"]).out)
        == json.loads((second / "metrics.json").read_text())["test"]
    )


FIXES = [
    ("path,label,given\n007/000.png,7,7\n", ["row 2", "`given` is '7'", "'007'"]),
    ("path,label\n7/000.png,None\n7/000.png,nan\n", ["rows 2 and 3", "'None' and 'nan'"]),
    ("path,label,label\n7/000.png,None,nan\n", ["row 1", "two columns label"]),
    ("path,label\n7/000.png,8\n", ["no class '8'", "row 2"]),
    ("path,label\n7/900.png,nan\n", ["no image '7/900.png'", "row 2"]),
]


@pytest.mark.parametrize(("text", "words"), FIXES)
def test_081_corrected_labels_that_contradict(
    flags: list[str | Path], make: Make, tmp_path: Path, text: str, words: list[str]
) -> None:
    """A path twice with two labels, two label columns, a wrong `given`, no such path: exit code 2 with the row."""
    make(dict.fromkeys(("007", "7", "None", "nan", "-1", "1e5"), 2))
    fixes = table(tmp_path, "fixes.csv", text)
    for command in ([*flags, "--fixes", fixes], ["audit", *flags[-4:], "--fixes", fixes]):
        refuse(command, 2, f"--fixes {fixes}", *words)


def test_080_labels_that_look_like_numbers(flags: list[str | Path], make: Make, tmp_path: Path) -> None:
    """Labels like 007, None, nan, 1e5 and -1: unchanged names, with or without the apostrophe of a spreadsheet."""
    make(dict.fromkeys(("007", "7", "None", "nan", "-1", "1e5"), 8))
    fixes = table(tmp_path, "fixes.csv", "path,label\n-1/003.png,7\n'-1/004.png,1e5\n7/001.png,-1\n7/002.png,'-1\n")
    succeed([*flags, "--fixes", fixes])
    labels = pd.read_csv(tmp_path / "output/001-cnn/splits.csv", dtype=str, keep_default_na=False)
    label_of = dict(zip(labels["path"], labels["class"], strict=True))
    assert [label_of[name] for name in ("'-1/003.png", "'-1/004.png", "7/001.png", "7/002.png")] == [
        "7", "1e5", "'-1", "'-1"
    ]  # fmt: skip
    assert set(label_of.values()) == {"007", "7", "None", "nan", "'-1", "1e5"}


@pytest.mark.parametrize("flag", ["--fixes", "--labels"])
@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "missing.csv"])
def test_081_a_table_that_is_no_file(flags: list[str | Path], make: Make, tmp_path: Path, flag: str, name: str) -> None:
    """A table that is a FIFO, a device, a folder or missing: exit code 2 at once."""
    make({"cat": 2, "dog": 2})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    refuse([*flags, flag, tmp_path / name], 2, f"{flag} {tmp_path / name}: ")


class TestTable:
    """One folder of images and a table, as most published sets come."""

    @pytest.fixture
    def rows(self, tmp_path: Path, make_images: MakeImages) -> list[str]:
        make_images(tmp_path / "kaggle" / "images", {"": 40})
        for number in range(40):
            name = tmp_path / "kaggle" / "images" / f"{number:03}.png"
            colour = make_images(tmp_path / "drawn", {"ab"[number % 2]: 40 if number < 1 else 1}, seed=number)
            os.replace(colour / "ab"[number % 2] / "000.png", name)
        return [f"{number:03},{('007', 'None')[number % 2]}" for number in range(40)]

    def test_080_every_verb_reads_a_table(self, tmp_path: Path, rows: list[str]) -> None:
        """A table of labels as most published data sets have: read by every verb, names unchanged."""
        labels = table(tmp_path / "kaggle", "train.csv", "\n".join(["image_id,target", *rows[:36]]))
        source = ["--labels", labels, "--data", tmp_path / "kaggle" / "images", "--output", tmp_path / "output"]
        outcome = succeed([*SMALL, *source])
        assert f"2 classes in {tmp_path / 'kaggle' / 'images'}" in outcome.out
        left_out = "4 images below " + str(tmp_path / "kaggle" / "images") + " are not in it and are left out"
        assert any(note.endswith(left_out) for note in outcome.notes)
        run = tmp_path / "output" / "001-cnn"
        splits = pd.read_csv(run / "splits.csv", dtype=str, keep_default_na=False)
        assert len(splits) == 36 and set(splits["class"]) == {"007", "None"}
        assert splits["path"].tolist() == [f"{number:03}.png" for number in range(36)]
        settings = json.loads((run / "config.json").read_text())
        assert settings["labels"] == str(labels)
        own = json.loads(succeed(["evaluate", "--output", tmp_path / "output", "--json"]).out)
        assert own == json.loads((run / "metrics.json").read_text())["test"]
        again = json.loads(succeed(["evaluate", *source, "--json"]).out)
        assert again["n"] == 36 and set(again["per_class"]) == {"007", "None"}
        assert "images   36 in 2 classes" in succeed(["audit", *source]).out
        assert all("labels" in verb.settings for verb in VERBS.values() if "data" in verb.settings)
        copied = [path for path in (tmp_path / "output").rglob("*.png") if path.name[:3].isdigit()]
        assert copied == []

    def test_080_split_and_group_columns(self, tmp_path: Path, rows: list[str]) -> None:
        """Columns for split and group in a table: used."""
        lines = [f"{row},{('train', 'test')[k // 30]},{k // 4}" for k, row in enumerate(rows)]
        labels = table(tmp_path / "kaggle", "train.csv", "\n".join(["id,class,split,group", *lines]))
        outcome: Outcome = succeed([*SMALL, "--labels", labels, "--output", tmp_path / "output"])
        splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv", dtype=str)
        number = splits["path"].str.extract(r"(\d+)\.png")[0].astype(int)
        assert ((splits["split"] == "test") == (number >= 30)).all()
        old = splits[number < 28]
        assert (old.groupby(number[number < 28] // 4)["split"].nunique() == 1).all()
        assert set(splits["split"]) == {"train", "val", "test"} and "Traceback" not in outcome.err

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            ("900,None", ["row 42", "'900'", "no image below"]),
            ("003,007", ["rows 5 and 42", "'None' and '007'"]),
            ("004,", ["row 42 has no label"]),
            ("004,None,x", ["row 42 has 3 cells"]),
            ('004,"None', ["row 42", "cannot be read as a table"]),
        ],
    )
    def test_081_rows_that_cannot_be_used(self, tmp_path: Path, rows: list[str], extra: str, words: list[str]) -> None:
        """Rows with contradictions, missing cells or files: exit code 2 with their numbers."""
        labels = table(tmp_path / "kaggle", "train.csv", "\n".join(["id,class", *rows, extra]))
        for verb in (SMALL, ["audit"]):
            refuse([*verb, "--labels", labels, "--output", tmp_path / "output"], 2, f"--labels {labels}: ", *words)
