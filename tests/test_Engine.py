"""The main job: what a run writes, that it is right, and that it can be repeated."""

from __future__ import annotations

import json
from importlib.metadata import version

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from tests.docs import METRICS_PAGE
from tests.support.harness import SMALL, succeed
from tests.support.trained_run import Trained

PICTURES = ["history.png", "confusion_matrix.png", "samples.png", "mistakes.png"]
COLUMNS = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]


def test_a_run_holds_exactly_its_files(trained: Trained) -> None:
    assert sorted(path.name for path in trained.path.iterdir()) == sorted(
        "last.pt model.pt config.json environment.json classes.txt splits.csv skipped.csv train.log history.csv "
        "metrics.json predictions.csv report.html model.pt.prev history.png confusion_matrix.png samples.png "
        "MODEL_CARD.md confusion_matrix_normalized.png per_class.png reliability.png roc_pr.png mistakes.png".split()
    )


def test_the_report_tells_what_the_console_told(trained: Trained) -> None:
    page = (trained.path / "report.html").read_text(encoding="utf-8")
    scores = trained.metrics["test"]
    assert f"{100 * scores['accuracy']:.1f}" in page and scores["weakest_class"] in page
    assert page.count("data:image/jpeg;base64,") >= scores["n"]
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page


def test_the_model_card_holds_the_figures_of_the_run(trained: Trained) -> None:
    card, test = (trained.path / "MODEL_CARD.md").read_text(encoding="utf-8"), trained.metrics["test"]
    assert f"**{100 * test['accuracy']:.1f} % of {test['n']} test images are classified correctly**" in card
    assert "1 file not used: 1 x `empty file`" in card and f"divided by {trained.metrics['temperature']:.2f}" in card
    assert f'load("{trained.path}")' in card


def test_the_model_file_reads_in_a_bare_torch(trained: Trained) -> None:
    stored = torch.load(trained.path / "model.pt", weights_only=True)
    assert (stored["model"], stored["classes"], stored["image_size"]) == ("cnn", ["cat", "dog", "eel"], 16)
    assert stored["state_dict"]["head.4.weight"].shape == (3, 512)
    best = trained.history["val_loss"].idxmin()
    assert stored["epoch"] == trained.history["epoch"][best]


def test_inputs_are_written_down(trained: Trained) -> None:
    assert (trained.path / "classes.txt").read_text() == "cat\ndog\neel\n"
    assert list(trained.splits) == ["path", "class", "split", "digest"]
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
        *(
            "model",
            "weights",
            "freeze",
            "temperature",
            "val",
            "test",
            "baseline_accuracy",
            "baseline_class",
            "head",
            "folds",
            "fine_tuning",
            "learning_curve",
            "next_steps",
            "tta",
            "precision",
            "choice",
            "image_size",
            "sizes",
            "repeats",
            "timing",
        )
    }
    page = METRICS_PAGE.read_text(encoding="utf-8")
    assert [key for key in (*metrics, *metrics["test"]) if f"`{key}`" not in page] == []
    assert metrics["fine_tuning"] is metrics["folds"] is metrics["choice"] is metrics["sizes"] is None
    assert metrics["repeats"] is None
    assert metrics["image_size"] == 16
    assert metrics["head"] == {"setting": "linear"} and metrics["precision"] == {"setting": "auto", "int8": None}
    assert 0.05 <= metrics["temperature"] <= 20
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
    assert 0 <= metrics["timing"]["features_s"] < metrics["timing"]["total_s"]


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
        "all layers are trained",
        "skipped  1 file, listed in skipped.csv: 1 x empty file",
    ):
        assert line in out
    accuracy = f"test accuracy {100 * trained.metrics['test']['accuracy']:.1f} %"
    assert out.index("from scratch") < out.index("epoch  train loss") < out.index(accuracy)
    log = (trained.path / "train.log").read_text()
    assert all(line in log for line in out.splitlines())
    assert max(len(line.replace(str(trained.output), "output")) for line in out.splitlines()) < 150


def test_the_same_seed_gives_the_same_numbers_and_cached_rows_change_nothing(trained: Trained) -> None:
    again, other = trained.again(), trained.again("--seed", "1")
    history = pd.read_csv(again / "history.csv")
    assert history.drop(columns="seconds").equals(trained.history.drop(columns="seconds"))
    assert (again / "predictions.csv").read_bytes() == (trained.path / "predictions.csv").read_bytes()
    metrics = json.loads((again / "metrics.json").read_text().replace(str(again), str(trained.path)))  # in commands
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
