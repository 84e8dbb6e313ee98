"""Training whose head is solved: console, history, files, resuming, fine-tuning, views."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.heads.SolveHead import Candidate, Solution
from MLPipeline.steps.FitHead import solution_lines
from tests.support.harness import Outcome, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--precision", "fp32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 16, "dog": 16, "owl": 4})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all runs of this file: they share the features."""
    return tmp_path_factory.mktemp("output")


class Trainer:
    """Trains in the shared folder, under a name of its own."""

    def __init__(self, data: Path, output: Path) -> None:
        self.data, self.output = data, output

    def __call__(self, name: str, *flags: str) -> Outcome:
        return succeed([*LITE, "--data", self.data, "--output", self.output, "--name", name, *flags])

    def path(self, name: str) -> Path:
        (path,) = self.output.glob(f"*-{name}")
        return path

    def metrics(self, name: str) -> dict[str, Any]:
        return json.loads((self.path(name) / "metrics.json").read_text(encoding="utf-8"))

    def weights(self, name: str) -> torch.Tensor:
        return load_checkpoint(self.path(name) / "model.pt")[0].head[-1].weight


@pytest.fixture(scope="module")
def train(data: Path, output: Path) -> Trainer:
    trainer = Trainer(data, output)
    trainer.first = trainer("auto")  # type: ignore[attr-defined]
    return trainer


def test_the_console_says_how_the_head_was_chosen(train: Trainer) -> None:
    said, found = train.first.out, train.metrics("auto")["head"]  # type: ignore[attr-defined]
    assert "training head by ridge or logistic regression, whichever is better out of fold" in said
    assert found["setting"] == "auto"
    assert [each["kind"] for each in found["out_of_fold"]] == ["ridge", "logistic", "average"]
    chosen = next(each for each in found["out_of_fold"] if each["kind"] == found["chosen"])
    assert f"accuracy {100 * chosen['accuracy']:.1f} %, loss {chosen['loss']:.4f} out of fold" in said
    assert said.index("head     ") < said.index("epoch  train loss") < said.index("result   ")
    page = (train.path("auto") / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert f"of {found['num_images']} images left out correctly" in page


def test_the_history_has_one_row_with_the_figures_of_the_head(train: Trainer) -> None:
    (row,) = pd.read_csv(train.path("auto") / "history.csv").to_dict("records")
    val = train.metrics("auto")["val"]
    assert (row["epoch"], row["lr"]) == (1, 0)
    assert row["val_accuracy"] == pytest.approx(val["accuracy"])
    unscaled = pd.read_csv(train.path("auto") / "predictions.csv").query("split == 'val'")["loss"].mean()
    assert row["val_loss"] == pytest.approx(unscaled, rel=0.3)  # before and after temperature scaling


def test_linear_is_the_training_as_it_was(train: Trainer) -> None:
    train("linear", "--head", "linear")
    train("epochs", "--epochs", "10")
    figures = [pd.read_csv(train.path(name) / "history.csv").drop(columns="seconds") for name in ("linear", "epochs")]
    assert len(figures[0]) == 10 and figures[0].equals(figures[1])
    assert torch.equal(train.weights("linear"), train.weights("epochs"))


def test_the_settings_of_a_run_repeat_it(train: Trainer) -> None:
    settings = train.path("auto") / "config.json"
    succeed(["--config", settings, "--output", train.output, "--name", "again"])
    assert torch.equal(train.weights("auto"), train.weights("again"))


def test_a_run_stopped_at_its_end_resumes_with_the_same_head(train: Trainer) -> None:
    resumed = train.output / "099-resumed"
    shutil.copytree(train.path("auto"), resumed)
    for name in ("metrics.json", "model.pt", "report.html"):
        (resumed / name).unlink()
    succeed(["--resume", resumed, "--output", train.output])
    assert torch.equal(train.weights("auto"), train.weights("resumed"))
    assert train.metrics("resumed")["head"] == train.metrics("auto")["head"]


def test_fine_tuning_begins_with_the_head(train: Trainer) -> None:
    said = train("tuned", "--head", "ridge", "--unfreeze-after", "2", "--epochs", "3", "--freeze", "top").out
    assert "the head is fitted first, then the layers after top are trained" in said
    history = pd.read_csv(train.path("tuned") / "history.csv")
    found = train.metrics("tuned")["fine_tuning"]
    assert history["epoch"].tolist() == [1, 2]  # the head, and one epoch: 3 less 2
    assert found["head_loss"] == pytest.approx(history["val_loss"][0], abs=1e-4)
    assert found["tuned_loss"] == pytest.approx(history["val_loss"][1], abs=1e-6)


def test_a_run_stopped_in_its_fine_tuning_still_knows_its_head(train: Trainer) -> None:
    resumed = train.output / "098-continued"
    shutil.copytree(train.path("tuned"), resumed)
    (resumed / "metrics.json").unlink()
    succeed(["--resume", resumed, "--output", train.output])
    assert train.metrics("continued")["head"] == train.metrics("tuned")["head"]
    assert train.metrics("continued")["head"]["chosen"] == "ridge"


def test_views_are_fitted_on_and_not_left_out(train: Trainer) -> None:
    said = train("views", "--head", "ridge", "--augment", "hflip,crop", "--views", "2").out
    assert "2 augmented views of each training image are stored; the head is fitted on all of them" in said
    assert train.metrics("views")["head"]["num_images"] == train.metrics("auto")["head"]["num_images"]
    history = pd.read_csv(train.path("views") / "history.csv")
    assert history["train_accuracy"][0] > 0.8


def test_without_room_for_features_the_head_is_the_same(train: Trainer) -> None:
    train("roomless", "--cache-limit", "0")
    stored, read = train.weights("auto").detach(), train.weights("roomless").detach()
    assert torch.allclose(stored, read, atol=0.05 * float(stored.abs().max()))


def test_the_model_predicts_as_any_other(train: Trainer) -> None:
    row = pd.read_csv(train.path("auto") / "predictions.csv").iloc[0]
    image = train.data / row["path"]
    said = succeed(["predict", image, "--run", train.path("auto"), "--output", train.output, "--json"]).out
    answer = json.loads(said)
    assert answer["confidence"] == pytest.approx(row["confidence"], abs=1e-4)


def test_few_images_are_said() -> None:
    solution = Solution(None, Candidate("logistic", 0.3, np.nan, np.nan, 1.0), (), 0)  # type: ignore[arg-type]
    assert solution_lines(solution) == [
        "head     logistic regression (penalty 0.3): there are too few images of each class to compare heads"
    ]
