"""`evaluate`: the run's own figures again, and honest ones on other folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.harness import SMALL, refuse, succeed, train

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def evaluate(trained: Path) -> list[str]:
    return ["evaluate", "--output", str(trained.parent), "-j", "1"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_its_own_images_give_the_figures_of_the_run(trained: Path, evaluate: list[str], split: str) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())[split]
    outcome = succeed([*evaluate, "--split", split, "--json"])
    assert outcome.notes == [f"using {trained / 'model.pt'}"]
    again = json.loads(outcome.out)
    for key in ("n", "accuracy", "accuracy_ci95", "macro_f1", "confusion_matrix"):
        assert again[key] == metrics[key]
    assert again["loss"] == pytest.approx(metrics["loss"], abs=1e-3)


def test_training_images_can_be_scored_too(evaluate: list[str]) -> None:
    outcome = succeed([*evaluate, "--split", "train"])
    assert "12 train images of" in outcome.out and "result   accuracy" in outcome.out


def test_the_table_names_every_class(evaluate: list[str]) -> None:
    lines = succeed(evaluate).out.splitlines()
    assert lines[0].startswith("run      ") and "4 test images of" in lines[1]
    assert [line.split()[0] for line in lines[3:6]] == ["class", "cat", "dog"]
    assert len({len(line) for line in lines[3:6]}) == 1  # aligned


def test_classes_of_other_folders_are_matched_by_name(
    trained: Path, evaluate: list[str], make_images: MakeImages, tmp_path: Path
) -> None:
    """In folders without cats `dog` is number 0: by position its images would count as cats."""
    own = trained.parents[1] / "Data"
    shutil.copytree(own / "dog", tmp_path / "only" / "dog")
    shutil.copytree(own, tmp_path / "both")
    only = json.loads(succeed([*evaluate, "--data", tmp_path / "only", "--json"]).out)
    both = json.loads(succeed([*evaluate, "--data", tmp_path / "both", "--json"]).out)
    assert (only["n"], both["n"]) == (10, 20)
    assert only["per_class"]["dog"]["support"] == 10 and only["per_class"]["cat"]["support"] == 0
    assert only["accuracy"] == both["per_class"]["dog"]["recall"]


def test_of_split_folders_the_chosen_split_is_scored(
    evaluate: list[str], make_images: MakeImages, tmp_path: Path
) -> None:
    make_images(tmp_path, {"Train/cat": 2, "Train/dog": 2, "TESTING/cat": 3, "TESTING/dog": 4})
    assert json.loads(succeed([*evaluate, "--data", tmp_path, "--json"]).out)["n"] == 7
    assert json.loads(succeed([*evaluate, "--data", tmp_path, "--json", "--split", "train"]).out)["n"] == 4
    refuse([*evaluate, "--data", tmp_path, "--split", "val"], 2, str(tmp_path), "no val images")


def test_an_unknown_class_is_refused_with_the_nearest(
    evaluate: list[str], make_images: MakeImages, tmp_path: Path
) -> None:
    make_images(tmp_path, {"cat": 2, "dogs": 2})
    refuse([*evaluate, "--data", tmp_path], 2, "'dogs'", "Did you mean 'dog'")


def test_a_missed_gate_exits_with_5_after_the_figures(trained: Path, evaluate: list[str], tmp_path: Path) -> None:
    accuracy = json.loads((trained / "metrics.json").read_text())["test"]["accuracy"]
    succeed([*evaluate, "--min-accuracy", f"{accuracy}"])
    shutil.copytree(trained.parents[1] / "Data" / "cat", tmp_path / "dog")  # every answer that was right is wrong
    outcome = refuse([*evaluate, "--data", tmp_path, "--min-accuracy", "1"], 5, "--min-accuracy 1")
    assert "result   accuracy" in outcome.out


def test_the_predictions_can_be_written(trained: Path, evaluate: list[str], tmp_path: Path) -> None:
    succeed([*evaluate, "--csv", tmp_path / "table.csv"])
    table, own = pd.read_csv(tmp_path / "table.csv"), pd.read_csv(trained / "predictions.csv")
    own = own[own["split"] == "test"].reset_index(drop=True)
    assert table[["path", "split", "true", "predicted"]].equals(own[["path", "split", "true", "predicted"]])


def test_unreadable_images_are_named_and_the_rest_is_scored(
    evaluate: list[str], make_images: MakeImages, tmp_path: Path
) -> None:
    make_images(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat" / "bad.jpg").touch()
    outcome = succeed([*evaluate, "--data", tmp_path, "--json"])
    assert json.loads(outcome.out)["n"] == 4
    assert "skipped cat/bad.jpg: empty file" in outcome.notes


def test_images_and_classes_that_came_or_went_since_training(make_images: MakeImages, tmp_path: Path) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    path = train(data, output, make_images)
    again = ["evaluate", "--output", output, "--json"]
    before = json.loads(succeed(again).out)
    make_images(data, {"ant": 3})
    assert json.loads(succeed(again).out) == before
    tested = pd.read_csv(path / "splits.csv").query("split == 'test'")["path"].tolist()
    (data / tested[0]).unlink()
    outcome = succeed(again)
    assert json.loads(outcome.out)["n"] == 3
    assert f"1 of the run's 4 test images are gone from {data}" in outcome.notes
    for name in tested[1:]:
        (data / name).unlink()
    refuse(again, 2, str(data), "no test images", "--data")
    (path / "splits.csv").unlink()
    refuse(again, 2, "splits.csv", "--data")


def test_without_a_run_it_says_how_to_make_one(tmp_path: Path) -> None:
    refuse(["evaluate", "--output", tmp_path], 2, str(tmp_path), "Train one")


def test_images_of_a_class_without_any(make_images: MakeImages, tmp_path: Path) -> None:
    """A class may have training images and no test images: its figures are undefined, not zero."""
    make_images(tmp_path / "Data", {"train/cat": 4, "train/dog": 4, "train/eel": 4, "test/cat": 2, "test/dog": 2})
    succeed([*SMALL, "--data", tmp_path / "Data", "--output", tmp_path / "output", "--epochs", "1"])
    outcome = succeed(["evaluate", "--output", tmp_path / "output"])
    eel = next(line for line in outcome.out.splitlines() if line.startswith("eel"))
    recall, num_images = eel.removesuffix("%").split()[-3], eel.split()[-1]
    assert (recall, num_images) == ("-", "0")
