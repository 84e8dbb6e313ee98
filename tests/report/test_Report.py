"""Tables, pictures and sentences of a run, from made-up results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from MLPipeline.Config import Config
from MLPipeline.decoding.Preprocessing import PLAIN
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, VAL, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.report import Plots, Report
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.Report import (
    closing_lines,
    counted,
    epoch_line,
    measure,
    oddity_lines,
    per_class_lines,
    result_lines,
    stored_metrics,
    summary_lines,
    table_of,
    write_history,
    write_json,
    write_results,
)
from MLPipeline.scoring.Metrics import evaluate
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

RECORD = EpochRecord(3, 0.5, 0.75, 0.25, 1.0, 0.01, 1.25, True)
COLUMNS = "epoch train_loss train_accuracy val_loss val_accuracy lr seconds".split()


@pytest.fixture(autouse=True)
def _drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_process", None)  # which an earlier test may have begun


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_images) -> ImageIndex:
    root = make_images(tmp_path_factory.mktemp("report") / "Data", {"cat": 10, "dog": 5})
    return split_images(scan_folders(root), 0.2, 0.2, seed=0)  # test: 2 cats, 1 dog


def scores_of(index: ImageIndex, split: int, answers: list[int]) -> SplitPredictions:
    """Return the predictions of a model that gives `answers` with a logit of 2."""
    positions = index.positions(split)
    logits = 2.0 * torch.nn.functional.one_hot(torch.tensor(answers, dtype=torch.int64), 2).float()
    return SplitPredictions(split, positions, Predictions(logits, torch.from_numpy(index.labels[positions]).long()))


def test_measures_are_by_split_and_the_baseline_is_of_the_last(index: ImageIndex) -> None:
    metrics = measure(index, [scores_of(index, VAL, [0, 0, 0]), scores_of(index, TEST, [0, 0, 1])])
    assert (metrics["val"]["accuracy"], metrics["test"]["accuracy"]) == (2 / 3, 1.0)
    assert metrics["baseline_accuracy"] == 2 / 3  # two of the three test images are cats


def test_without_test_images_the_validation_images_are_judged(index: ImageIndex, tmp_path: Path) -> None:
    scored = [scores_of(index, VAL, [0, 1, 1]), SplitPredictions(TEST, np.empty(0, np.int64), empty())]
    metrics = measure(index, scored)
    assert metrics["test"]["accuracy"] is None and metrics["baseline_accuracy"] == 2 / 3
    write_results(tmp_path, index, scored, metrics, 16)
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 3
    lines = closing_lines(metrics)
    assert lines[0].startswith("result   val accuracy 66.7 % (95 % interval 20.8 to 93.9 %, 3 images)")
    assert lines[0].endswith("; majority-class baseline 66.7 %")
    assert lines[1] == "weakest  class cat: recall 50 %, most often confused with dog"


def empty() -> Predictions:
    return Predictions(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))


def test_with_no_images_at_all_it_says_so(index: ImageIndex, tmp_path: Path) -> None:
    scored = [SplitPredictions(split, np.empty(0, np.int64), empty()) for split in (VAL, TEST)]
    metrics = measure(index, scored)
    assert metrics["baseline_accuracy"] is None
    write_results(tmp_path, index, scored, metrics, 16)
    assert closing_lines(metrics) == ["result   accuracy unknown: there are no validation or test images"]
    assert cv2.imread(str(tmp_path / "confusion_matrix.png")) is not None


def test_a_history_without_epochs_is_an_empty_table(tmp_path: Path) -> None:
    write_history(tmp_path, [])
    assert list(pd.read_csv(tmp_path / "history.csv")) == COLUMNS
    write_history(tmp_path, [RECORD])
    assert pd.read_csv(tmp_path / "history.csv").to_numpy().tolist() == [[3, 0.5, 0.75, 0.25, 1.0, 0.01, 1.25]]


def test_a_vanished_file_is_drawn_white_and_the_others_stay(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = index.positions(TRAIN)[:2]
    gone = index.path(int(positions[0]))
    whole = Report._pixels(index, positions, 8, PLAIN)
    gone.rename(gone.with_suffix(".away"))
    try:
        pixels = Report._pixels(index, positions, 8, PLAIN)
    finally:
        gone.with_suffix(".away").rename(gone)
    assert pixels.shape == (2, 3, 8, 8) and (pixels[0] == 255).all() and not (whole[0] == 255).all()
    assert (pixels[1] == whole[1]).all()


def test_mistakes_and_their_captions_go_together(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    monkeypatch.setattr(Plots, "plot_mistakes", lambda *given: drawn.update(given=given))
    scored = [scores_of(index, TEST, [1, 0, 0])]
    write_results(tmp_path, index, scored, measure(index, scored), 8)
    images, true, predicted, confidence, number, _ = drawn["given"]
    positions = scored[0].positions[[0, 2]]
    assert (true, predicted, number) == (["cat", "dog"], ["dog", "cat"], 3)
    assert (images == Report._pixels(index, positions, 8, PLAIN)).all()
    assert confidence == pytest.approx([1 / (1 + math.exp(-2))] * 2)


def test_tables_name_the_image_of_each_row(index: ImageIndex) -> None:
    table = table_of(index, scores_of(index, TEST, [1, 0, 1]))
    assert table["path"] == [index.name(position) for position in index.positions(TEST).tolist()]
    assert table["true"] == ["cat", "cat", "dog"] and table["predicted"] == ["dog", "cat", "dog"]
    assert set(table["split"]) == {SPLITS[TEST]}


def test_an_epoch_is_a_row_under_its_header() -> None:
    assert (
        epoch_line(None)
        == "epoch  train loss  train acc  val loss   val acc  seconds  (* lowest validation loss so far)"
    )
    assert epoch_line(RECORD) == "    3      0.5000     75.0 %    0.2500   100.0 %     1.25 *"
    blind = epoch_line(EpochRecord(12, 0.5, 1.0, math.nan, math.nan, 0.01, 1.0, False))
    assert blind == "   12      0.5000    100.0 %         -         -     1.00"
    assert len(blind) == epoch_line(None).index("seconds") + len("seconds")


def test_the_summary_says_what_is_trained_on_what(index: ImageIndex) -> None:
    config = Config(model="resnet18", epochs=1, batch_size=8, optimizer="adam", lr=0.001, image_size=64, freeze="none")
    config = replace(config, augment="none")
    failed = WeightsReport("none", "", "", "ImageNet weights are not available (no network)")
    lines = summary_lines(index, config, failed, torch.device("cpu"))
    assert lines == [
        f"images   2 classes in {index.root}: 9 train, 3 val, 3 test",
        "model    resnet18 with random weights; all layers are trained",
        "         ImageNet weights are not available (no network)",
        "training 1 epoch, batch 8, adam at 0.001, 64x64 pixels, seed 0, on cpu",
        "augment  none",
    ]
    partly = Config(**{**vars(config), "freeze": "layer3", "weights": "imagenet"})
    weights = WeightsReport("imagenet", "url", "hash", "weights of a.pth")
    lines = summary_lines(index, partly, weights, torch.device("cpu"))
    assert (
        lines[1] == "model    resnet18 with ImageNet weights; the layers after layer3 are trained" and len(lines) == 4
    )
    tuned = replace(config, unfreeze_after=3, epochs=8, augment="hflip,translate")
    lines = summary_lines(index, tuned, weights, torch.device("cpu"))
    assert lines[1].endswith("; the head is trained for 3 epochs, then all layers are trained")
    assert lines[3].startswith("augment  hflip,translate in fine-tuning: mirrored left to right (50% of the images), ")


def test_the_table_of_classes_is_aligned_and_tells_undefined_from_zero() -> None:
    predictions = Predictions(torch.tensor([[2.0, 0, 0], [0, 2, 0]]), torch.tensor([0, 0]))
    scores = evaluate(predictions, ["a cat", "dog", "e" * 60])
    lines = per_class_lines(scores)
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) < 90
    assert lines[1].split() == ["a", "cat", "100.0", "%", "50.0", "%", "66.7", "%", "2"]
    assert lines[2].split() == ["dog", "-", "-", "-", "0"]
    assert result_lines(scores)[0] == "result   accuracy 50.0 % (95 % interval 9.5 to 90.5 %, 2 images)"


def test_oddities_are_one_line_a_kind() -> None:
    notes = [
        Skipped("a.jpg", "end marker missing"),
        Skipped("b.gif", "first of 2"),
        Skipped("c.jpg", "end marker missing"),
    ]
    assert oddity_lines(notes) == [
        "a.jpg and 1 more: end marker missing; used anyway",
        "b.gif: first of 2; used anyway",
    ]
    assert oddity_lines([]) == []


def test_counts_are_grammatical() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_json_is_written_whole_with_a_last_line_end(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "katze \N{CAT}", "n": None})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n") and json.loads(text) == {"name": "katze \N{CAT}", "n": None}


def test_many_classes_make_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 classes: a column for each would make 18 MB of these 1,000 images, their confusion matrix 12 MB."""
    num_images, num_classes = 1000, 2000
    names = [f"{label:04}/{label}.jpg" for label in range(num_images)]
    index = ImageIndex(
        root=tmp_path,
        classes=tuple(f"class {label}" for label in range(num_classes)),
        labels=np.arange(num_images, dtype=np.int32),
        splits=np.full(num_images, TEST, np.int8),
        skipped=(),
        _names="".join(names).encode(),
        _ends=np.cumsum([len(name) for name in names]),
    )
    logits = torch.randn(num_images, num_classes, generator=torch.Generator().manual_seed(0))
    scored = SplitPredictions(TEST, np.arange(num_images), Predictions(logits, torch.arange(num_images)))
    monkeypatch.setattr(drawing, "draw", lambda *_: None)
    metrics = measure(index, [scored])
    write_results(tmp_path, index, [scored], metrics, 8)
    assert (tmp_path / "predictions.csv").stat().st_size < 0.4e6
    assert (tmp_path / "predictions.npz").stat().st_size < 4.5e6
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["classes"].tolist() == list(index.classes)
        assert arrays["probabilities"].dtype == np.float16
        exact = scored.predictions.probabilities.numpy()
        assert np.abs(arrays["probabilities"] - exact).max() <= np.maximum(exact / 1024, 6e-8).max()
    stored = stored_metrics(metrics)
    assert stored["test"]["confusion_matrix"] is None and stored["test"]["accuracy"] == metrics["test"]["accuracy"]
    assert len(json.dumps(stored)) < 0.5e6
    assert metrics["test"]["confusion_matrix"][0] == scored_row(scored)


def scored_row(scored: SplitPredictions) -> list[int]:
    """Return the first row of the confusion matrix: the first image is the only one of its class."""
    row = [0] * scored.predictions.logits.shape[1]
    row[int(scored.predictions.predicted[0])] = 1
    return row


def test_few_classes_keep_their_confusion_matrix(index: ImageIndex, tmp_path: Path) -> None:
    metrics = measure(index, [scores_of(index, TEST, [0, 0, 1])])
    assert stored_metrics(metrics) == metrics and metrics["test"]["confusion_matrix"] == [[2, 0], [0, 1]]
    assert not (tmp_path / "predictions.npz").exists()
