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
from MLPipeline.Config import Config
from MLPipeline.frozen.FastForward import drawn_images
from MLPipeline.Head import reads_roots
from MLPipeline.heads.SolveHead import Candidate, Solution
from MLPipeline.Predict import ImageClassifier
from MLPipeline.steps.FitHead import solution_lines
from MLPipeline.steps.Prepare import build
from MLPipeline.training.Phases import is_solved
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
    assert "on the square roots of the features, whose predictions" in page


def test_the_history_has_one_row_with_the_figures_of_the_head(train: Trainer) -> None:
    (row,) = pd.read_csv(train.path("auto") / "history.csv").to_dict("records")
    val = train.metrics("auto")["val"]
    assert (row["epoch"], row["lr"]) == (1, 0)
    assert row["val_accuracy"] == pytest.approx(val["accuracy"])
    unscaled = pd.read_csv(train.path("auto") / "predictions.csv").query("split == 'val'")["loss"].mean()
    assert row["val_loss"] == pytest.approx(unscaled, rel=0.3, abs=1e-6)  # before and after temperature scaling


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


@pytest.mark.parametrize(
    ("flags", "on_roots"),
    [
        ({"model": "efficientnet_lite0", "head": "auto"}, True),
        ({"model": "resnet18", "head": "ridge", "weights": "none", "freeze": "backbone"}, True),
        ({"model": "efficientnet_lite0", "head": "linear"}, False),
        ({"model": "efficientnet_lite0", "head": "auto", "unfreeze_after": 1}, False),
        ({"model": "efficientnet_b0", "head": "auto", "weights": "none", "freeze": "backbone"}, False),  # after a SiLU
    ],
)
def test_a_head_that_is_solved_for_reads_roots_where_no_feature_is_negative(
    flags: dict[str, Any], on_roots: bool
) -> None:
    model, config, _ = build(Config(image_size=32, **flags), 3, torch.device("cpu"))
    assert reads_roots(model.head) == on_roots
    with torch.inference_mode():
        features = model.eval().features(drawn_images(1, 32))
    assert (features.min() >= 0) == (flags["model"] != "efficientnet_b0")
    assert is_solved(config) == (flags["head"] != "linear")


def test_the_head_is_fitted_on_what_it_reads(train: Trainer) -> None:
    """On the square roots of features; so the saved model has the accuracies that were printed."""
    model, card = load_checkpoint(train.path("auto") / "model.pt")
    assert card.roots and train.metrics("auto")["head"]["inputs"] == "roots of the features"
    assert "each on the square roots of the features" in train.first.out  # type: ignore[attr-defined]
    rows = pd.read_csv(train.path("auto") / "predictions.csv")
    features = ImageClassifier(model, card, "fp32").embed([train.data / path for path in rows["path"]])
    layer = model.head[-1]
    with torch.inference_mode():
        logits = (torch.from_numpy(features) + 1e-6).sqrt() @ layer.weight.T + layer.bias
    found = (logits.double() / card.temperature).softmax(dim=1).max(dim=1).values.numpy()
    np.testing.assert_allclose(found, rows["confidence"], atol=2e-3)


def test_few_images_are_said() -> None:
    solution = Solution(None, Candidate("logistic", 0.3, np.nan, np.nan, 1.0), (), 0)  # type: ignore[arg-type]
    assert solution_lines(solution, has_roots=False) == [
        "head     logistic regression (penalty 0.3): there are too few images of each class to compare heads"
    ]
