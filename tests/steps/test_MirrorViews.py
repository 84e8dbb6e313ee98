"""`--tta`: answers are the average over both views, calibrated on validation images; refused where it does harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from MLPipeline.Errors import UsageError
from MLPipeline.Predict import load
from tests.audit.test_MirroredClasses import arrow, disc_or_square
from tests.steps.test_CheckMirrors import draw
from tests.support.harness import SMALL, refuse, succeed

LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--head", "ridge", "--precision", "fp32"]
FLAGS = {"frozen": LITE, "pixels": [*SMALL, "--precision", "fp32", "--lr", "0.05"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey shapes, which are not easy to tell apart at this size."""
    return draw(tmp_path_factory.mktemp("images") / "Data", disc_or_square, ("cat", "dog"), 20)


class Trainer:
    """Trains each kind of run once."""

    def __init__(self, data: Path, output: Path) -> None:
        self.data, self.output = data, output
        self.said: dict[str, str] = {}

    def __call__(self, kind: str) -> tuple[Path, str]:
        """Return the folder of a run whose rows are features (frozen), or pixels, and what it printed."""
        if kind not in self.said:
            flags = [*FLAGS[kind], "--data", self.data, "--output", self.output, "--name", kind]
            self.said[kind] = succeed([*flags, "--target-precision", "0.8"]).out
        return next(self.output.glob(f"*-{kind}")), self.said[kind]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Trainer:
    return Trainer(data, tmp_path_factory.mktemp("output"))


@pytest.fixture(params=FLAGS)
def trained(request: pytest.FixtureRequest, train: Trainer) -> tuple[Path, str]:
    return train(request.param)


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_the_run_says_what_it_would_gain(trained: tuple[Path, str]) -> None:
    run, said = trained
    found = metrics_of(run)["tta"]
    assert found["num_images"] == metrics_of(run)["val"]["n"]
    assert found["accuracy"] == metrics_of(run)["val"]["accuracy"]
    assert found["loss"] == pytest.approx(metrics_of(run)["val"]["loss"], abs=1e-6)
    line = next(line for line in said.splitlines() if line.startswith("tta "))
    assert f"{100 * found['tta_accuracy']:.1f} % (" in line
    assert "Averaged over each image and its mirror image" in (run / "report.html").read_text(encoding="utf-8")


def test_answers_are_the_average_over_both_views_at_its_temperature(trained: tuple[Path, str], data: Path) -> None:
    run, _ = trained
    pixels = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(data.glob("*/1*.png"))]
    plain, mirrored = load(run), load(run, tta=True)
    heads = plain._model.head
    with torch.inference_mode():
        views = [
            heads(torch.from_numpy(plain.embed([np.ascontiguousarray(image[:, ::step]) for image in pixels])))
            for step in (1, -1)
        ]
    wanted = (sum(views) / 2 / metrics_of(run)["tta"]["temperature"]).softmax(1)
    for images in (pixels, pixels[:1]):
        for answer, shares in zip(mirrored.predict(images), wanted.tolist(), strict=False):
            found = dict(answer.top)
            assert [found["cat"], found["dog"]] == pytest.approx(shares, abs=2e-3)
    assert mirrored.embed(pixels[0]) == pytest.approx(plain.embed(pixels[0]), abs=1e-3)


def test_evaluate_scores_the_averages_with_a_threshold_of_their_own(trained: tuple[Path, str]) -> None:
    run, _ = trained
    flags = ["--run", run, "--output", run.parent, "--split", "val", "--json"]
    found = json.loads(succeed(["evaluate", "--tta", *flags]).out)
    stored = metrics_of(run)["tta"]
    assert found["accuracy"] == stored["tta_accuracy"]
    assert found["loss"] == pytest.approx(stored["tta_loss"], abs=1e-4)
    assert found["temperature"] == stored["temperature"]
    plain = json.loads(succeed(["evaluate", *flags]).out)
    assert plain["loss"] == pytest.approx(stored["loss"], abs=1e-4)
    assert found["unknown"]["precision"] is None or found["unknown"]["precision"] >= 0.8


def test_predict_prints_the_averaged_answers(train: Trainer, data: Path) -> None:
    run, _ = train("pixels")
    flags = [data / "cat", "--run", run, "--output", run.parent, "--json"]
    plain, averaged = (succeed(["predict", *flags, *more]).out.splitlines() for more in ([], ["--tta"]))
    assert len(plain) == len(averaged) == 20 and plain != averaged


def test_arrows_are_refused(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", arrow, ("left", "right"))
    said = succeed([*SMALL, "--data", data, "--output", tmp_path / "output"]).out
    run = tmp_path / "output" / "001-cnn"
    assert "tta      --tta must not be used: mirrored left to right, " in said
    assert "Mirror images must not be used" in (run / "report.html").read_text(encoding="utf-8")
    for verb in (["predict", data], ["evaluate"]):
        refuse([*verb, "--tta", "--run", run, "--output", tmp_path / "output"], 2, "--tta: mirror images must not be")
    with pytest.raises(UsageError, match="must not be used"):
        load(run, tta=True)


def test_without_validation_images_it_is_refused(tmp_path: Path, data: Path) -> None:
    succeed([*FLAGS["pixels"], "--data", data, "--output", tmp_path, "--val-fraction", "0"])
    assert metrics_of(tmp_path / "001-cnn")["tta"] is None
    refuse(["predict", data, "--tta", "--output", tmp_path], 2, "does not say how to calibrate averaged answers")
