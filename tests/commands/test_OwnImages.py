"""A run scores its own images: the same figures to the last digit, and never on other images in silence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.harness import SMALL, refuse, succeed

MakeImages = Callable[..., Path]
FLAGS = [*SMALL, "--lr", "0.1", "-b", "4"]


class Trained:
    """A run on images that a test may change, and how to evaluate it."""

    def __init__(self, data: Path, output: Path) -> None:
        self.data, self.output = data, output
        self.path = output / "001-cnn"
        self.splits = pd.read_csv(self.path / "splits.csv", dtype=str, keep_default_na=False)
        self.command: list[str | Path] = ["evaluate", "--output", output, "-j", "1"]

    def metrics(self, split: str) -> dict:
        return json.loads((self.path / "metrics.json").read_text())[split]

    def names(self, split: str) -> list[str]:
        return self.splits["path"][self.splits["split"] == split].tolist()

    def scores(self, *flags: str | Path) -> dict:
        return json.loads(succeed([*self.command, "--json", *flags]).out)


def train(data: Path, output: Path, *flags: str | Path) -> Trained:
    succeed([*FLAGS, "--data", data, "--output", output, *flags])
    return Trained(data, output)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Trained:
    root = tmp_path_factory.mktemp("own")
    return train(make_images(root / "Data", {"cat": 14, "dog": 14}), root / "output")


@pytest.fixture
def trained(original: Trained, tmp_path: Path) -> Trained:
    """A copy of one run and of its images, as if they had been made here."""
    shutil.copytree(original.data.parent, tmp_path, dirs_exist_ok=True)
    copy = Trained(tmp_path / "Data", tmp_path / "output")
    for name in ("config.json", "environment.json"):
        file = copy.path / name
        file.write_text(file.read_text().replace(str(original.data.parent), str(tmp_path)))
    return copy


def fixes_for(data: Path, folder: Path) -> Path:
    rows = "".join(f"cat/00{k}.png,dog,cat\ndog/00{k}.png,cat,dog\n" for k in range(6))
    (folder / "fixes.csv").write_text("path,label,given\n" + rows + "cat/006.png,,cat\n")
    return folder / "fixes.csv"


def labels_for(data: Path, folder: Path) -> Path:
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    rows = "".join(f"{name},{'even' if int(Path(name).stem) % 2 else 'odd'}\n" for name in names[3:])
    (folder / "labels.csv").write_text("path,label\n" + rows)
    return folder / "labels.csv"


@pytest.mark.parametrize("how", ["folders", "fixes", "labels", "labels and fixes"])
def test_its_figures_come_again_to_the_last_digit(tmp_path: Path, make_images: MakeImages, how: str) -> None:
    data, flags = make_images(tmp_path / "Data", {"cat": 14, "dog": 14}), []
    if "labels" in how:
        flags += ["--labels", labels_for(data, tmp_path)]
    if how == "fixes":
        flags += ["--fixes", fixes_for(data, tmp_path)]
    if how == "labels and fixes":
        (tmp_path / "fixes.csv").write_text("path,label,given\ncat/004.png,even,odd\ndog/004.png,,odd\n")
        flags += ["--fixes", tmp_path / "fixes.csv"]
    run = train(data, tmp_path / "output", *flags)
    for split in ("val", "test"):
        assert run.scores("--split", split) == run.metrics(split)
    shutil.rmtree(tmp_path / "output" / "cache")  # and where all is read anew
    assert run.scores() == run.metrics("test")


@pytest.mark.parametrize("names", [("two\nlines", "soft\u00adhyphen"), ("=sum", "'=quoted")])
def test_names_that_a_table_writes_otherwise_are_found_again(
    tmp_path: Path, make_images: MakeImages, names: tuple[str, str]
) -> None:
    """Line ends and invisible characters are escaped in `splits.csv`; signs of formulas get an apostrophe."""
    run = train(make_images(tmp_path / "Data", dict.fromkeys(names, 14)), tmp_path / "output")
    assert run.scores() == run.metrics("test")
    assert {name: each["support"] for name, each in run.scores()["per_class"].items()} == dict.fromkeys(names, 2)


@pytest.mark.slow
def test_features_of_a_frozen_backbone_give_the_same_figures(tmp_path: Path, make_images: MakeImages) -> None:
    data = make_images(tmp_path / "Data", {"cat": 14, "dog": 14})
    flags = ["--model", "efficientnet_lite0", "--image-size", "64", "--epochs", "2", "--name", "cnn"]
    run = train(data, tmp_path / "output", *flags, "--target-precision", "0.9")
    for split in ("val", "test"):
        assert run.scores("--split", split) == run.metrics(split)


def test_the_table_of_splits_records_the_contents(trained: Trained) -> None:
    assert trained.splits.columns.tolist() == ["path", "class", "split", "digest"]
    assert trained.splits["digest"].str.fullmatch("[0-9a-f]{32}").all() and trained.splits["digest"].is_unique


def test_labels_and_splits_that_changed_since_do_not_matter(trained: Trained) -> None:
    """Another class folder, an image more, and a folder that would be a split: none of it was there at training."""
    before = trained.scores()
    shutil.copytree(trained.data / "cat", trained.data / "eel")
    shutil.copytree(trained.data / "cat", trained.data / "train" / "cat")
    assert trained.scores() == before


def test_a_changed_image_is_refused_where_it_is_more_than_one_in_a_hundred(trained: Trained) -> None:
    name = trained.names("test")[0]
    shutil.copyfile(trained.data / trained.names("train")[0], trained.data / name)
    what = f"1 of the run's 4 test images have changed in {trained.data}, such as {name}"
    refuse(trained.command, 2, what, f"--data {trained.data}", "train again")
    succeed([*trained.command, "--split", "val"])


def test_another_folder_of_the_same_names_is_refused(trained: Trained, make_images: MakeImages) -> None:
    shutil.rmtree(trained.data)
    make_images(trained.data, {"cat": 14, "dog": 14}, seed=1)
    refuse(trained.command, 2, "4 of the run's 4 test images have changed", "another folder of that name", "--data")


def test_a_moved_image_is_refused_and_a_lost_one_is_said(trained: Trained) -> None:
    name = trained.names("test")[0]
    (trained.data / name).rename(trained.data / "dog" / "elsewhere.png")
    refuse(trained.command, 2, f"1 of the run's 4 test images have moved in {trained.data}", "--data")
    (trained.data / "dog" / "elsewhere.png").unlink()
    outcome = succeed([*trained.command, "--json"])
    assert f"1 of the run's 4 test images are gone from {trained.data}" in outcome.notes
    assert json.loads(outcome.out)["n"] == 3
    (trained.data / trained.names("test")[1]).unlink()
    refuse(trained.command, 2, f"2 of the run's 4 test images are gone from {trained.data}", "--data")


@pytest.mark.slow
def test_one_changed_image_in_a_hundred_is_left_out_and_said(tmp_path: Path, make_images: MakeImages) -> None:
    data = make_images(tmp_path / "Data", {"train/cat": 6, "train/dog": 6, "test/cat": 60, "test/dog": 60})
    run = train(data, tmp_path / "output")
    shutil.copyfile(data / "train/cat/000.png", data / "test/cat/003.png")
    outcome = succeed([*run.command, "--json"])
    assert f"1 of the run's 120 test images have changed in {data}" in outcome.notes
    assert json.loads(outcome.out)["n"] == 119
    shutil.copyfile(data / "train/cat/000.png", data / "test/cat/004.png")
    refuse(run.command, 2, "2 of the run's 120 test images have changed")


def test_a_run_without_digests_is_scored_and_says_that_nothing_was_checked(trained: Trained) -> None:
    before = trained.scores()
    trained.splits.drop(columns="digest").to_csv(trained.path / "splits.csv", index=False)
    outcome = succeed([*trained.command, "--json"])
    assert json.loads(outcome.out) == before
    assert any("did not record the contents of its images" in note for note in outcome.notes)


@pytest.mark.parametrize(
    "damage", ["path,class,split\n", "path,split\na,test\n", "path,class,split\na,cow,test\n", "\0"]
)
def test_a_damaged_table_of_splits_is_refused(trained: Trained, damage: str) -> None:
    (trained.path / "splits.csv").write_text(damage)
    refuse(trained.command, 2, "--data")


def test_its_images_are_found_from_another_working_directory(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "here" / "Data", {"cat": 14, "dog": 14})
    make_images(tmp_path / "there" / "Data", {"cat": 14, "dog": 14}, seed=1)  # another folder of that name
    monkeypatch.chdir(tmp_path / "here")
    succeed([*FLAGS, "--data", "Data"])
    path = tmp_path / "here" / "output" / "001-cnn"
    metrics = json.loads((path / "metrics.json").read_text())["test"]
    monkeypatch.chdir(tmp_path / "there")
    assert json.loads(succeed(["evaluate", "--run", path, "--json"]).out) == metrics
    shutil.rmtree(tmp_path / "here" / "Data")  # gone: those in this directory are not the run's
    refuse(["evaluate", "--run", path], 2, "4 of the run's 4 test images have changed", "another folder of that name")
    shutil.rmtree(tmp_path / "there" / "Data")
    gone = f"its images are gone from {tmp_path / 'here' / 'Data'} and Data"
    refuse(["evaluate", "--run", path], 2, gone, "If the folder has moved, give its new place with --data")


def test_settings_replayed_elsewhere_say_which_folder_they_use(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    make_images(here / "Data", {"cat": 6, "dog": 6})
    there.mkdir()
    monkeypatch.chdir(here)
    succeed([*FLAGS, "--data", "Data"])
    settings = here / "output" / "001-cnn" / "config.json"
    monkeypatch.chdir(there)
    assert f"--config {settings}: uses the images of {here / 'Data'}" in succeed(["train", "--config", settings]).notes
    make_images(there / "Data", {"cat": 6, "dog": 6})
    note = f"--config {settings}: uses the images of {there / 'Data'}; its run used {here / 'Data'}"
    assert note in succeed(["train", "--config", settings]).notes


def test_a_folder_that_moved_is_known_by_its_contents(trained: Trained, tmp_path: Path) -> None:
    before = trained.scores()
    trained.data.rename(tmp_path / "moved")
    outcome = succeed([*trained.command, "--json", "--data", tmp_path / "moved"])
    assert json.loads(outcome.out) == before
    assert any(f"{tmp_path / 'moved'} holds the images of" in note for note in outcome.notes)


def test_images_that_a_run_has_learned_from_are_counted_among_others(
    trained: Trained, tmp_path: Path, make_images: MakeImages
) -> None:
    make_images(tmp_path / "other", {"cat": 3, "dog": 3}, seed=5)
    outcome = succeed([*trained.command, "--json", "--data", tmp_path / "other"])
    assert not [note for note in outcome.notes if "too good" in note]
    shutil.copyfile(trained.data / trained.names("train")[0], tmp_path / "other" / "cat" / "known.png")
    outcome = succeed([*trained.command, "--json", "--data", tmp_path / "other"])
    learned = f"1 of the 7 images are training or validation images of {trained.path}: the figures are too good"
    assert learned in outcome.notes


def test_other_images_may_come_with_a_table(trained: Trained, tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "other" / "photos", {"": 6}, seed=5)
    rows = "".join(f"00{k},{'cat' if k % 2 else 'dog'}\n" for k in range(5))
    (tmp_path / "other" / "labels.csv").write_text("id,label\n" + rows)
    outcome = succeed([*trained.command, "--json", "--labels", tmp_path / "other" / "labels.csv"])
    assert json.loads(outcome.out)["n"] == 5
    (tmp_path / "other" / "labels.csv").write_text("id,label\n000,cow\n")
    refuse([*trained.command, "--labels", tmp_path / "other" / "labels.csv"], 2, "no class 'cow', as in row 2")


def test_names_of_any_bytes_are_found_again(tmp_path: Path, make_images: MakeImages) -> None:
    data = make_images(tmp_path / "Data", {"cat": 6, "dog": 6})
    for number, name in enumerate([b"\xff\n.png", b"=1+1.png", b"'=2.png", b"-3.png", "Cafe\u0301.png".encode()]):
        os.rename(data / "cat" / f"00{number}.png", os.path.join(os.fsencode(data), b"cat", name))
    make_images(data, {"-1": 6})
    run = train(data, tmp_path / "output")
    for split in ("train", "val", "test"):
        assert run.scores("--split", split)["n"] == len(run.names(split))


def test_a_table_for_a_run_whose_images_are_gone(trained: Trained, tmp_path: Path) -> None:
    trained.data.rename(tmp_path / "moved")
    labels = tmp_path / "moved" / "labels.csv"
    labels.write_text("path,label\ncat/000.png,cat\ndog/000.png,dog\n")
    assert trained.scores("--labels", labels)["n"] == 2
    assert trained.scores("--labels", labels, "--data", tmp_path / "moved")["n"] == 2
