"""Rows 22 to 33 and 42 of the fault matrix: folders, flags and the output folder."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.harness import SMALL, Outcome, refuse, succeed

MakeImages = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "Data"


@pytest.fixture
def flags(data: Path, tmp_path: Path) -> list[str | Path]:
    return [*SMALL, "--epochs", "1", "--data", data, "--output", tmp_path / "output"]


@pytest.fixture
def refuse_data(flags: list[str | Path], tmp_path: Path) -> Callable[..., Outcome]:
    """Return a check that the data is refused with these words, before anything is written."""

    def check(*words: str) -> Outcome:
        outcome = refuse(flags, 2, *words)
        assert not (tmp_path / "output").exists()
        return outcome

    return check


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("flags") / "Data", {"cat": 6, "dog": 6})


def test_022_no_folder_an_empty_one_or_a_file(data: Path, refuse_data: Callable[..., Outcome]) -> None:
    """`Data/` missing, empty, or a file: exit code 2, with the expected layout."""
    refuse_data(str(data), "Data/cat/1.jpg")
    data.mkdir()
    refuse_data(str(data), "Data/cat/1.jpg")
    data.rmdir()
    data.touch()
    refuse_data(str(data), "Data/cat/1.jpg")


def test_023_one_class_or_loose_images(
    data: Path, refuse_data: Callable[..., Outcome], make_images: MakeImages
) -> None:
    """Only one class, or images outside of class folders: exit code 2."""
    make_images(data, {"": 3})
    refuse_data("3 images but no class folders")
    make_images(data, {"cat": 3})
    refuse_data("'cat'", "two are needed")


def test_024_an_empty_class_and_a_class_of_one_image(
    data: Path, flags: list[str | Path], make_images: MakeImages, tmp_path: Path
) -> None:
    """An empty class: left out, with a note. A class of one image: used for training only, with a note."""
    make_images(data, {"cat": 6, "dog": 6, "eel": 1})
    (data / "fox").mkdir()
    outcome = succeed(flags)
    assert any("'fox'" in note and "no images" in note for note in outcome.notes)
    assert any("'eel'" in note and "training only" in note for note in outcome.notes)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    assert splits["split"][splits["class"] == "eel"].tolist() == ["train"]


def test_025_split_folders_are_no_classes(
    data: Path, flags: list[str | Path], make_images: MakeImages, tmp_path: Path
) -> None:
    """Folders for training and testing in any spelling: splits; a missing one is taken from training."""
    make_images(data, {"Training_Data/cat": 8, "Training_Data/dog": 8, "TESTING/cat": 3, "TESTING/dog": 2})
    outcome = succeed(flags)
    assert "2 classes" in outcome.out and any("a val folder: 15 % of train" in note for note in outcome.notes)
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")
    assert splits.groupby("split").size().to_dict() == {"train": 14, "val": 2, "test": 5}
    assert (splits["path"].str.startswith("TESTING") == (splits["split"] == "test")).all()


def test_026_classes_that_a_split_lacks(
    data: Path, flags: list[str | Path], make_images: MakeImages, tmp_path: Path, refuse_data: Callable[..., Outcome]
) -> None:
    """Classes that a split lacks: matched by name; a class without training images is exit code 2."""
    make_images(data, {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2, "test/cow": 2})
    refuse_data("'cow'", "no training images")
    (data / "test" / "cow").rename(data / "test" / "dog")  # cat, number 0, is absent from test
    succeed(flags)
    metrics = json.loads((tmp_path / "output" / "001-cnn" / "metrics.json").read_text())
    assert {name: scores["support"] for name, scores in metrics["test"]["per_class"].items()} == {"cat": 0, "dog": 2}


def test_027_what_the_system_leaves_in_folders(
    data: Path, flags: list[str | Path], make_images: MakeImages, tmp_path: Path
) -> None:
    """`.DS_Store`, `__MACOSX`, `.ipynb_checkpoints` and other hidden folders: ignored."""
    make_images(data, {"cat": 5, "dog": 5, "__MACOSX/cat": 2, ".ipynb_checkpoints": 2, ".git": 1, "cat/.hidden": 1})
    (data / ".DS_Store").touch()
    (data / "cat" / ".DS_Store").touch()
    outcome = succeed(flags)
    assert "2 classes" in outcome.out and "skipped" not in outcome.out
    assert len(pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv")) == 10


@pytest.mark.parametrize("name", ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cat"])
def test_028_class_names_that_differ_in_spelling_only(
    data: Path, refuse_data: Callable[..., Outcome], make_images: MakeImages, name: str
) -> None:
    """`Cat` and `cat`, or the same accents encoded in two ways: exit code 2 with both names."""
    twin = name.title() if name == "cat" else unicodedata.normalize("NFD", name)
    make_images(data, {name: 3, twin: 3, "dog": 3})
    refuse_data(ascii(name), ascii(twin))


NO_SUCH_NAME = [
    (["--model", "resnet5"], ["--model resnet5", "'resnet50'"]),
    (["trian"], ["trian", "'train'"]),
    (["--epoch", "3"], ["--epoch", "'--epochs'"]),
    (["predict", "x.jpg", "--epochs", "3"], ["--epochs", "train"]),
    (["--weights", "imagnet"], ["--weights imagnet", "'imagenet'"]),
    (["--freeze", "layer9"], ["--freeze layer9", "Choose from"]),
    (["--schedule", "cosin"], ["--schedule cosin", "'cosine'"]),
    (["--balance", "weights"], ["--balance weights", "sampler"]),
    (["--augment", "hflp"], ["--augment hflp", "'hflip'"]),
    (["--device", "gpu"], ["--device gpu", "cuda"]),
]
NO_SUCH_VALUE = [
    (["--lr", "nan"], ["--lr nan", "1e-12", "100"]),
    (["--lr", "-1"], ["--lr -1", "1e-12"]),
    (["--lr", "inf"], ["--lr inf", "100"]),
    (["--epochs", "0"], ["--epochs 0", "from 1"]),
    (["--epochs", "many"], ["--epochs", "many"]),
    (["-b", "0"], ["--batch-size 0", "from 1"]),
    (["--image-size", "7"], ["--image-size 7", "from 8"]),
    (["--seed", "-1"], ["--seed -1", "from 0"]),
    (["--seed", str(2**64)], ["--seed", "from 0"]),
    (["--ema", "1"], ["--ema 1", "0.99999"]),
    (["--label-smoothing", "1"], ["--label-smoothing 1", "0.99"]),
    (["--clip-norm", "-1"], ["--clip-norm -1", "from 0"]),
    (["--weight-decay", "nan"], ["--weight-decay nan", "from 0"]),
    (["--layer-decay", "0"], ["--layer-decay 0", "from 0.01"]),
    (["--patience", "0"], ["--patience 0", "from 1"]),
    (["--time", "0"], ["--time 0", "from 0.1"]),
    (["--unfreeze-after", "0"], ["--unfreeze-after 0", "from 1"]),
    (["--unfreeze-after", "13"], ["--unfreeze-after 13", "of 13 epochs", "--epochs"]),
    (["--unfreeze-after", "2", "--freeze", "backbone"], ["--freeze backbone", "--unfreeze-after"]),
    (["--resume", "7"], ["--resume 7", "no runs"]),
    (["--val-fraction", "0.6", "--test-fraction", "0.5"], ["--val-fraction", "no images to train on"]),
    (["--config", "nowhere.json"], ["nowhere.json", "config.json"]),
]


@pytest.mark.parametrize(("argv", "words"), NO_SUCH_NAME)
def test_029_an_unknown_verb_flag_or_name(two_classes: Path, tmp_path: Path, argv: list[str], words: list[str]) -> None:
    """An unknown verb, flag, model or choice: exit code 2 with the nearest names."""
    refuse_flags(two_classes, tmp_path / "output", argv, words)


@pytest.mark.parametrize(("argv", "words"), NO_SUCH_VALUE)
def test_030_a_value_out_of_range(two_classes: Path, tmp_path: Path, argv: list[str], words: list[str]) -> None:
    """A value out of range, or flags that contradict each other: exit code 2 with the flag and its range."""
    refuse_flags(two_classes, tmp_path / "output", argv, words)


def refuse_flags(data: Path, output: Path, argv: list[str], words: list[str]) -> None:
    where = ["--data", str(data), "--output", str(output)] if argv[0].startswith("-") else []
    model = ["--model", "cnn"] if where and argv[0] != "--model" else []
    refuse([*argv, *where, *model], 2, *words)
    assert not output.exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_031_a_device_that_is_not_there(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """`--device cuda` or `mps` on a machine without one: exit code 2 with the devices that there are."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    where = ["--data", two_classes, "--output", tmp_path / "output"]
    for verb in (SMALL, ["audit"], ["tune", "--model", "efficientnet_lite0"]):
        refuse([*verb, *where, "--device", device], 2, f"--device {device}: not available here", "cpu")


@pytest.mark.parametrize("batch_size", ["7", "500"])
def test_032_a_last_batch_of_one_and_a_batch_larger_than_the_data(
    data: Path, make_images: MakeImages, tmp_path: Path, batch_size: str
) -> None:
    """A last batch of one image before BatchNorm, or a batch larger than the data set: trains."""
    make_images(data, {"cat": 6, "dog": 6})  # 8 to train on: a batch of 7 leaves one, on which BatchNorm cannot train
    flags = [*SMALL, "--model", "cnn_residual", "--epochs", "1"]
    succeed([*flags, "--data", data, "--output", tmp_path / "output", "-b", batch_size])


def test_033_an_output_that_is_a_file_or_inside_the_images(two_classes: Path, tmp_path: Path) -> None:
    """`--output` is a file or inside the images, or `--name` leads elsewhere: exit code 2, and nothing is written."""
    (tmp_path / "file").touch()
    inside, link = two_classes / "cat" / "output", tmp_path / "link"
    link.symlink_to(two_classes, target_is_directory=True)
    for verb in (SMALL, ["audit"], ["tune", "--model", "efficientnet_lite0"]):
        refuse([*verb, "--data", two_classes, "--output", tmp_path / "file"], 2, "--output", "is a file")
        for output in (inside, two_classes, link / "output", two_classes / ".." / two_classes.name / "dog"):
            refuse([*verb, "--data", two_classes, "--output", output], 2, "--output", "inside the images")
    refuse([*SMALL, "--data", two_classes, "--output", tmp_path / "o", "--name", "../x"], 2, "--name ../x")
