"""The main job: what a run writes, that it is right, and that it can be repeated."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from harness import SMALL, Outcome, run, succeed

import Engine
from MLPipeline.Augment import make_augmentation
from MLPipeline.commands import FitPhases
from MLPipeline.report import Report
from MLPipeline.report.Drawing import drawing

MakeImages = Callable[..., Path]
PICTURES = ["history.png", "confusion_matrix.png", "samples.png", "mistakes.png"]
COLUMNS = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]


class Trained:
    """A finished run of three classes, its images, and what it said."""

    def __init__(self, root: Path, outcome: Outcome) -> None:
        self.data, self.output, self.outcome = root / "Data", root / "output", outcome
        self.path = self.output / "001-cnn"
        self.metrics = json.loads((self.path / "metrics.json").read_text())
        self.history = pd.read_csv(self.path / "history.csv")
        self.predictions = pd.read_csv(self.path / "predictions.csv")
        self.splits = pd.read_csv(self.path / "splits.csv")

    def again(self, *flags: str) -> Path:
        """Return the folder of one more run, with the settings of this one and these flags."""
        succeed([*SMALL, "--data", self.data, "--output", self.output, *flags])
        return sorted(self.output.glob("[0-9]*-*"))[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Trained:
    root = tmp_path_factory.mktemp("main")
    make_images(root / "Data", {"cat": 20, "dog": 20, "eel": 10})
    (root / "Data" / "cat" / "empty.jpg").touch()
    return Trained(root, succeed([*SMALL, "--data", root / "Data", "--output", root / "output"]))


def test_a_run_holds_exactly_its_files(trained: Trained) -> None:
    assert sorted(path.name for path in trained.path.iterdir()) == sorted(
        "last.pt model.pt config.json environment.json classes.txt splits.csv skipped.csv train.log history.csv "
        "metrics.json predictions.csv report.html model.pt.prev history.png confusion_matrix.png samples.png "
        "confusion_matrix_normalized.png per_class.png reliability.png roc_pr.png mistakes.png".split()
    )


def test_the_report_tells_what_the_console_told(trained: Trained) -> None:
    page = (trained.path / "report.html").read_text(encoding="utf-8")
    scores = trained.metrics["test"]
    assert f"{100 * scores['accuracy']:.1f}" in page and scores["weakest_class"] in page
    assert page.count("data:image/jpeg;base64,") >= scores["n"]
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page


def test_the_model_file_reads_in_a_bare_torch(trained: Trained) -> None:
    stored = torch.load(trained.path / "model.pt", weights_only=True)
    assert (stored["model"], stored["classes"], stored["image_size"]) == ("cnn", ["cat", "dog", "eel"], 16)
    assert stored["state_dict"]["head.4.weight"].shape == (3, 512)
    best = trained.history["val_loss"].idxmin()
    assert stored["epoch"] == trained.history["epoch"][best]


def test_inputs_are_written_down(trained: Trained) -> None:
    assert (trained.path / "classes.txt").read_text() == "cat\ndog\neel\n"
    assert list(trained.splits) == ["path", "class", "split"]
    assert sorted(trained.splits["path"]) == sorted(
        str(path.relative_to(trained.data)) for path in trained.data.rglob("*.png")
    )
    assert (trained.splits["class"] == trained.splits["path"].str.split("/").str[0]).all()
    # 15 % of 20, 20 and 10 images, to each of validation and test
    assert trained.splits.groupby("split").size().to_dict() == {"train": 34, "val": 8, "test": 8}
    skipped = pd.read_csv(trained.path / "skipped.csv")
    assert skipped.to_numpy().tolist() == [["cat/empty.jpg", "empty file"]]
    assert json.loads((trained.path / "environment.json").read_text())["torch"] == version("torch")


def test_the_history_has_a_row_per_epoch(trained: Trained) -> None:
    assert list(trained.history) == COLUMNS
    assert trained.history["epoch"].tolist() == [1, 2]
    assert trained.history["lr"].tolist() == [0.01, 0.01]
    assert trained.history["train_loss"].between(0.1, 3).all() and (trained.history["seconds"] > 0).all()
    right = trained.history["train_accuracy"] * 34  # of 34 images: a whole number
    assert np.allclose(right, right.round())


def test_metrics_agree_with_the_predictions(trained: Trained) -> None:
    metrics, predictions = trained.metrics, trained.predictions
    assert metrics.keys() == {
        *("model", "weights", "freeze", "temperature", "val", "test", "baseline_accuracy", "fine_tuning", "timing")
    }
    assert metrics["fine_tuning"] is None and 0.05 <= metrics["temperature"] <= 20
    assert list(predictions) == [*"path split true predicted confidence loss p_cat p_dog p_eel".split()]
    for split in ("val", "test"):
        rows, scores = predictions[predictions["split"] == split], metrics[split]
        assert sorted(rows["path"]) == sorted(trained.splits["path"][trained.splits["split"] == split])
        assert scores["n"] == len(rows) == 8
        assert scores["accuracy"] == (rows["true"] == rows["predicted"]).mean()
        low, high = scores["accuracy_ci95"]
        assert 0 <= low < scores["accuracy"] <= high <= 1
        assert {"macro_f1", "ece", "per_class"} <= scores.keys()
        assert {name: each["support"] for name, each in scores["per_class"].items()} == {"cat": 3, "dog": 3, "eel": 2}
    shares = predictions[["p_cat", "p_dog", "p_eel"]].to_numpy()
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    assert np.allclose(shares.max(1), predictions["confidence"])
    assert metrics["baseline_accuracy"] == 3 / 8  # cat and dog are the largest, and cat comes first
    assert metrics["weights"]["kind"] == "none" and "from scratch" in metrics["weights"]["note"]
    assert 0 < metrics["timing"]["features_s"] < metrics["timing"]["total_s"]


def test_the_validation_figures_are_those_of_the_best_epoch(trained: Trained) -> None:
    best = trained.history.loc[trained.history["val_loss"].idxmin()]
    assert trained.metrics["val"]["accuracy"] == pytest.approx(best["val_accuracy"])
    assert trained.metrics["val"]["loss"] == pytest.approx(best["val_loss"], abs=0.02)  # bf16 forward on some machines


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_can_be_looked_at(trained: Trained, name: str) -> None:
    picture = cv2.imread(str(trained.path / name))
    assert min(picture.shape[:2]) > 150
    assert len(np.unique(picture)) > 10  # no blank page


def test_the_table_of_runs_has_its_row(trained: Trained) -> None:
    row = pd.read_csv(trained.output / "runs.csv").iloc[0]
    assert (row["run"], row["model"], row["weights"]) == ("001-cnn", "cnn", "none")
    assert row["test_accuracy"] == trained.metrics["test"]["accuracy"]
    assert row["seconds"] == trained.metrics["timing"]["total_s"]


def test_the_console_says_what_matters_and_the_log_keeps_it(trained: Trained) -> None:
    out = trained.outcome.out
    for line in (
        "images   3 classes",
        "every layer is trained",
        "skipped  1 file, listed in skipped.csv: 1 x empty file",
    ):
        assert line in out
    accuracy = f"test accuracy {100 * trained.metrics['test']['accuracy']:.1f} %"
    assert out.index("from scratch") < out.index("epoch  train loss") < out.index(accuracy)
    log = (trained.path / "train.log").read_text()
    assert all(line in log for line in out.splitlines())
    assert max(map(len, out.splitlines())) < 200


def test_the_same_seed_gives_the_same_numbers_and_cached_rows_change_nothing(trained: Trained) -> None:
    again, other = trained.again(), trained.again("--seed", "1")
    history = pd.read_csv(again / "history.csv")
    assert history.drop(columns="seconds").equals(trained.history.drop(columns="seconds"))
    assert (again / "predictions.csv").read_bytes() == (trained.path / "predictions.csv").read_bytes()
    metrics = json.loads((again / "metrics.json").read_text())
    assert {**metrics, "timing": 0} == {**trained.metrics, "timing": 0}
    assert (other / "splits.csv").read_bytes() != (trained.path / "splits.csv").read_bytes()
    assert pd.read_csv(other / "history.csv")["train_loss"][0] != history["train_loss"][0]


def test_a_run_is_replayed_from_its_settings(trained: Trained) -> None:
    succeed(["--config", trained.path / "config.json", "--data", trained.data, "--output", trained.output])
    again = sorted(trained.output.glob("[0-9]*-*"))[-1]
    assert (again / "config.json").read_bytes() == (trained.path / "config.json").read_bytes()
    assert (again / "predictions.csv").read_bytes() == (trained.path / "predictions.csv").read_bytes()


def test_without_held_out_images_the_run_finishes_and_says_what_is_missing(trained: Trained) -> None:
    flags = ["--val-fraction", "0", "--test-fraction", "0", "--epochs", "1"]
    outcome = succeed([*SMALL, "--data", trained.data, "--output", trained.output, *flags])
    assert "no validation or test images" in outcome.out and "nan" not in outcome.out


def test_an_interrupted_run_keeps_the_weights_of_its_best_epoch(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained.again("--epochs", "1")
    losses = iter([0.1, 0.2, 0.3])  # the first epoch is the best
    say = FitPhases.say

    def interrupt(text: str = "") -> None:
        say(text)
        if text.startswith("    3 "):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("MLPipeline.Train.score", lambda *_: (next(losses), 0.5))
    monkeypatch.setattr(FitPhases, "say", interrupt)
    outcome = run([*SMALL, "--data", trained.data, "--output", trained.output, "--epochs", "9"])
    path = sorted(trained.output.glob("[0-9]*-*"))[-1]
    assert outcome.code == 130
    assert outcome.notes == [
        f"stopped: the best weights so far are in {path / 'model.pt'}",
        f"to go on: python Engine.py --resume {path}",
    ]
    assert pd.read_csv(path / "history.csv")["val_loss"].tolist() == [0.1, 0.2, 0.3]
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "stopped by hand" in page and "--resume" in page
    stopped, best = (torch.load(each / "model.pt", weights_only=True) for each in (path, first))
    assert stopped["epoch"] == 1
    assert all(torch.equal(stopped["state_dict"][name], tensor) for name, tensor in best["state_dict"].items())


def test_a_file_that_vanishes_before_it_is_drawn_does_not_stop_the_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from MLPipeline.images.ReadImage import UnreadableImage

    def gone(*_: object) -> None:
        raise UnreadableImage("no such file or directory")

    monkeypatch.setattr(Report, "read_image", gone)
    assert cv2.imread(str(trained.again() / "samples.png")) is not None


def test_a_bare_call_shows_the_images_and_how_to_go_on(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained.data.parent)
    out = succeed([]).out
    assert "Data: 51 images in 3 classes" in out and "cat      21" in out and "--model" in out
    monkeypatch.chdir(tmp_path)
    assert "Expected one folder per class" in succeed([]).out


def test_version_and_help() -> None:
    assert f"torch {version('torch')}" in succeed(["--version"]).out
    assert "--model" in succeed(["--help"]).out
    assert "--topk" in succeed(["predict", "--help"]).out


def test_a_bug_of_ours_is_told_from_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "command_of", lambda verb: lambda config: 1 / 0)
    outcome = run(["runs"])
    assert outcome.code == 1 and "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ZeroDivisionError")


def test_a_rate_is_looked_for_and_nothing_trained(trained: Trained) -> None:
    before = sorted(trained.output.glob("[0-9]*-*"))
    outcome = succeed([*SMALL, "--data", trained.data, "--output", trained.output, "--find-lr"])
    rate = float(re.search(r"suggested --lr (\S+):", outcome.out)[1])
    assert 1e-5 < rate < 1 and cv2.imread(str(trained.output / "find_lr.png")).shape[1] > 500
    assert sorted(trained.output.glob("[0-9]*-*")) == before


def test_the_samples_show_what_augmentation_does(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    real = drawing.draw

    def draw(name: str, images: np.ndarray, *others: object) -> None:
        shown[others[-1]] = images
        real(name, images, *others)

    monkeypatch.setattr(drawing, "draw", draw)
    plain, changed = trained.again("--epochs", "1"), trained.again("--epochs", "1", "--augment", "vflip,jitter")
    before, after = (torch.from_numpy(np.ascontiguousarray(shown[run / "samples.png"])) for run in (plain, changed))
    rows = pd.read_csv(plain / "splits.csv")
    is_after_the_bad_file = (rows["class"] != "cat").to_numpy()  # which has a position, but no row
    positions = (np.arange(len(rows)) + is_after_the_bad_file)[(rows["split"] == "train").to_numpy()]
    order = np.arange(len(positions))
    np.random.default_rng([0, 1]).shuffle(order)
    positions = torch.from_numpy(positions[order][: len(before)])
    expected, _ = make_augmentation("vflip,jitter")(before, torch.zeros(len(before), 1), 0, 1, positions)
    assert torch.equal(after, expected) and not torch.equal(after, before)
