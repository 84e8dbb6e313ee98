"""The image size after fine-tuning: a larger one only where it validates better, and the same everywhere afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Features import Dataset
from MLPipeline.Models import takes_size
from MLPipeline.scoring.Predictions import is_lower
from MLPipeline.steps import ChooseSize
from MLPipeline.steps.ChooseSize import larger_sizes
from MLPipeline.steps.Job import Job
from tests.support.harness import refuse, run, succeed

MakeImages = Callable[..., Path]
TUNING = ["--model", "efficientnet_lite0", "--image-size", "32", "--unfreeze-after", "1", "--epochs", "2", "-j", "1"]


@pytest.fixture
def larger_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every larger size validates better, and fine-tuning is kept."""
    monkeypatch.setattr(ChooseSize, "is_lower", lambda losses, others: True)


def test_the_sizes_to_try_are_multiples_of_sixteen_above_that_of_training() -> None:
    assert [larger_sizes(size) for size in (200, 224, 240, 260)] == [[224, 256], [256, 288], [272, 304], [288, 336]]
    assert larger_sizes(32) == [48]
    assert larger_sizes(3600) == [4048]  # at most 4096, which model files allow


def test_a_loss_is_lower_if_the_difference_of_the_same_images_exceeds_its_standard_error() -> None:
    others = torch.tensor([0.4, 0.6, 0.2, 0.8])
    assert is_lower(others - 0.1, others)
    assert not is_lower(others + 0.1, others)
    noisy = others - torch.tensor([1.0, -0.9, 1.0, -0.9])  # 0.05 lower, with a standard error of 0.55
    assert noisy.mean() < others.mean() and not is_lower(noisy, others)
    assert not is_lower(others[:1] - 0.1, others[:1])  # one image says nothing


def test_weights_of_networks_with_fully_connected_layers_on_pixels_fit_no_other_size() -> None:
    assert takes_size("efficientnet_lite0", 3, 200, 224)
    assert not takes_size("cnn", 3, 32, 48)


def test_the_size_that_validates_best_is_that_of_the_model_its_answers_and_its_evaluation(
    few: Path, tmp_path: Path, larger_wins: None
) -> None:
    said = succeed([*TUNING, "--lr", "1e-3", "--data", few, "--output", tmp_path]).out
    path = tmp_path / "001-efficientnet_lite0"
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    sizes = [each["image_size"] for each in metrics["sizes"]]
    assert sizes == [32, *larger_sizes(32)] and metrics["image_size"] == sizes[-1]
    best, first = metrics["sizes"][-1], metrics["sizes"][0]
    line = f"tested and used at {sizes[-1]}x{sizes[-1]} pixels, for the lower validation loss: {best['val_loss']:.4f}"
    assert f"{line} (at 32x32: {first['val_loss']:.4f})" in said
    assert metrics["val"]["accuracy"] == best["val_accuracy"]
    _, card = load_checkpoint(path / "model.pt")
    assert card.image_size == sizes[-1]
    assert f"{sizes[-1]} x {sizes[-1]} pixels (32 x 32 in training)" in (path / "MODEL_CARD.md").read_text("utf-8")
    page = (path / "report.html").read_text(encoding="utf-8")
    assert f"at {sizes[-1]}x{sizes[-1]} pixels: larger images than in training validate better" in page
    assert "averaged over the epochs up to 2, which had the lowest validation loss" in page
    for split in ("val", "test"):
        again = succeed(["evaluate", "--split", split, "--json", "--output", tmp_path]).out
        found = json.loads(again)
        assert found["accuracy"] == metrics[split]["accuracy"] and found["loss"] == metrics[split]["loss"]


def test_a_stated_size_is_used_and_nothing_is_tried(few: Path, tmp_path: Path) -> None:
    succeed([*TUNING, "--test-size", "40", "--data", few, "--output", tmp_path])
    metrics = json.loads((tmp_path / "001-efficientnet_lite0" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["image_size"], metrics["sizes"]) == (40, None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "efficientnet_lite0"], ("--test-size 48", "a frozen backbone")),
        (["--model", "cnn", "--image-size", "32"], ("--test-size 48", "cnn has other weights than at --image-size 32")),
    ],
)
def test_where_the_size_cannot_differ_it_is_refused(
    few: Path, tmp_path: Path, flags: list[str], words: tuple[str, ...]
) -> None:
    refuse([*flags, "--test-size", "48", "--data", few, "--output", tmp_path], 2, *words)


def test_an_image_that_vanishes_leaves_the_size_as_it_was(
    few: Path, tmp_path: Path, larger_wins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(few, tmp_path / "Data")
    extracted = ChooseSize._extracted

    def lose(job: Job, dataset: Dataset, size: int, positions: np.ndarray) -> Dataset:
        path = Path(dataset.index.path(int(positions[0]))).rename(tmp_path / "gone.jpg")
        try:
            return extracted(job, dataset, size, positions)
        finally:
            path.rename(dataset.index.path(int(positions[0])))

    monkeypatch.setattr(ChooseSize, "_extracted", lose)
    outcome = run([*TUNING, "--data", data, "--output", tmp_path / "out"])
    assert outcome.code == 0, outcome.err
    assert "no other image size is tried: " in outcome.err and "but could be read before" in outcome.err
    metrics = json.loads((tmp_path / "out" / "001-efficientnet_lite0" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["image_size"] == 32
