"""What a run leaves for people to look at: tables, figures and pictures in its folder, and its closing lines."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from MLPipeline.Config import Config
from MLPipeline.Evaluate import baseline_accuracy, evaluate, predictions_table, worst_mistakes
from MLPipeline.Features import Dataset
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.files.SafeCsv import write_csv
from MLPipeline.images.ReadImage import read_image
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, VAL, ImageIndex
from MLPipeline.Predict import SplitPredictions
from MLPipeline.report.Plots import plot_confusion_matrix, plot_history, plot_mistakes, plot_samples
from MLPipeline.Train import EpochRecord
from MLPipeline.Weights import WeightsReport

PICTURES = 16
_PACKAGES = ("torch", "torchvision", "opencv-python-headless", "numpy", "pandas", "matplotlib")


def write_inputs(folder: Path, dataset: Dataset, image_size: int, shown: np.ndarray) -> None:
    """Write what a run starts from: classes, splits, skipped files, versions, pictures of those `shown`."""
    index = dataset.index
    write_text(folder / "classes.txt", "\n".join(index.classes) + "\n")
    used = np.flatnonzero(index.splits >= 0)
    table = {
        "path": [index.name(position) for position in used.tolist()],
        "class": [index.classes[label] for label in index.labels[used]],
        "split": [SPLITS[split] for split in index.splits[used]],
    }
    write_csv(pd.DataFrame(table, dtype=object), folder / "splits.csv")
    rows = pd.DataFrame([asdict(each) for each in dataset.skipped], columns=["path", "reason"], dtype=object)
    write_csv(rows, folder / "skipped.csv")
    write_json(folder / "environment.json", _environment())
    shown = shown[:PICTURES]
    titles = [index.classes[index.labels[position]] for position in shown]
    plot_samples(_pixels(index, shown, image_size), titles, folder / "samples.png")


def write_history(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Write `history.csv`: one row per epoch."""
    rows = pd.DataFrame([asdict(record) for record in history]).drop(columns="is_best")
    write_csv(rows, folder / "history.csv")


def write_results(
    folder: Path,
    index: ImageIndex,
    scored: Sequence[SplitPredictions],
    history: Sequence[EpochRecord],
    image_size: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write tables and figures of the finished run; return the content of `metrics.json`, which begins with `about`."""
    metrics = dict(about)
    for each in scored:
        metrics[SPLITS[each.split]] = evaluate(each.predictions, index.classes)
    last = next((each for each in reversed(scored) if len(each.positions)), scored[-1])
    train_labels = torch.from_numpy(index.labels[index.positions(TRAIN)])
    metrics["baseline_accuracy"] = baseline_accuracy(train_labels, last.predictions.labels)
    write_json(folder / "metrics.json", metrics)
    write_csv(pd.concat([table_of(index, each) for each in scored]), folder / "predictions.csv")
    write_history(folder, history)
    plot_history(pd.DataFrame([asdict(record) for record in history]), folder / "history.png")
    plot_confusion_matrix(
        metrics[SPLITS[last.split]]["confusion_matrix"], index.classes, folder / "confusion_matrix.png"
    )
    worst = worst_mistakes(last.predictions, PICTURES)
    predicted, labels = last.predictions.predicted, last.predictions.labels
    plot_mistakes(
        _pixels(index, last.positions[worst], image_size),
        [index.classes[int(labels[k])] for k in worst],
        [index.classes[int(predicted[k])] for k in worst],
        last.predictions.confidence[worst].tolist(),
        len(labels),
        folder / "mistakes.png",
    )
    return metrics


def summary_lines(dataset: Dataset, config: Config, weights: WeightsReport, device: torch.device) -> list[str]:
    """Return the sentences that say, before training, what is trained on what, and how."""
    index = dataset.index
    sizes = ", ".join(f"{len(index.positions(split))} {name}" for split, name in enumerate(SPLITS))
    start = {"imagenet": "ImageNet weights", "file": "weights of a file", "none": "random weights"}[weights.kind]
    trained = {"backbone": "the head is trained", "none": "every layer is trained"}
    lines = [
        f"images   {len(index.classes)} classes in {index.root}: {sizes}",
        f"model    {config.model} with {start}; {trained.get(str(config.freeze), f'layers after {config.freeze}')}",
        f"training {config.epochs} epochs, batch {config.batch_size}, {config.optimizer} at {config.lr:g}, "
        f"{config.image_size}x{config.image_size} pixels, seed {config.seed}, on {device.type}",
    ]
    if weights.kind == "none" and weights.note:
        lines.insert(2, f"         {weights.note}")
    if dataset.skipped:
        lines.append(f"skipped  {len(dataset.skipped)} files, listed with reasons in skipped.csv")
    return lines


def epoch_line(record: EpochRecord | None) -> str:
    """Return one row of the epoch table; its header for None."""
    if record is None:
        return "epoch  train loss  train acc  val loss  val acc  seconds"
    star = " *" if record.is_best else ""
    return (
        f"{record.epoch:5d}  {record.train_loss:10.4f}  {100 * record.train_accuracy:7.1f} %"
        f"  {record.val_loss:8.4f}  {100 * record.val_accuracy:5.1f} %  {record.seconds:7.1f}{star}"
    )


def closing_lines(metrics: dict[str, Any]) -> list[str]:
    """Return the sentences that sum a run up: accuracy with interval, baseline, weakest class."""
    name = next((split for split in (SPLITS[TEST], SPLITS[VAL]) if metrics.get(split, {}).get("n")), None)
    if name is None:
        return ["no validation or test images: nothing says how good this model is"]
    scores = metrics[name]
    low, high = (f"{100 * bound:.1f}" for bound in scores["accuracy_ci95"])
    lines = [
        f"{name} accuracy {100 * scores['accuracy']:.1f} % (95 % interval {low} to {high} %, {scores['n']} images)"
    ]
    if metrics.get("baseline_accuracy") is not None:
        lines[0] += f"; always the largest class: {100 * metrics['baseline_accuracy']:.1f} %"
    if scores["weakest_class_taken_for"]:
        recall = scores["per_class"][scores["weakest_class"]]["recall"]
        lines.append(
            f"weakest class {scores['weakest_class']}: {100 * recall:.0f} % found, "
            f"most often taken for {scores['weakest_class_taken_for']}"
        )
    return lines


def per_class_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a table of precision, recall and F1, one line a class."""

    def percent(value: float | None) -> str:
        return "    -  " if value is None else f"{100 * value:5.1f} %"

    width = max(len(name) for name in ("class", *metrics["per_class"]))
    lines = [f"{'class':{width}}  precision   recall       F1  images"]
    for name, scores in metrics["per_class"].items():
        figures = "  ".join(percent(scores[key]) for key in ("precision", "recall", "f1"))
        lines.append(f"{name:{width}}    {figures}  {scores['support']:6d}")
    return lines


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def table_of(index: ImageIndex, scored: SplitPredictions) -> pd.DataFrame:
    """Return the rows of `predictions.csv` for one split."""
    names = [index.name(position) for position in scored.positions.tolist()]
    return predictions_table(scored.predictions, names, SPLITS[scored.split], index.classes)


def _pixels(index: ImageIndex, positions: np.ndarray, image_size: int) -> np.ndarray:
    """Return images (B, 3, H, W) uint8 as the network gets them."""
    pictures = [read_image(index.path(position), (image_size, image_size)).pixels for position in positions]
    return np.array(pictures, np.uint8).reshape(-1, image_size, image_size, 3).transpose(0, 3, 1, 2)


def _environment() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "command": sys.argv,
    }
