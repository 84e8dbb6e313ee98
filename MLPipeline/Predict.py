"""Names the class of images, exactly as training saw them; streams, so a folder may hold any number."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import Progress, Reading, no_progress, read_images
from MLPipeline.Device import decoding_threads
from MLPipeline.Errors import DataError
from MLPipeline.Evaluate import Predictions, predict_batches
from MLPipeline.fast.FastForward import FastClassifier, FastForward, forward_batch
from MLPipeline.Features import Dataset
from MLPipeline.images.ImageWalk import ImageWalk, Skipped


@dataclass(frozen=True)
class Answer:
    """What the model says of one file: classes with probabilities, best first; none if it could not be read."""

    path: Path
    top: tuple[tuple[str, float], ...]
    reason: str = ""

    def to_text(self) -> str:
        """Return `cat.jpg  cat 97.3 %  dog 2.1 %`."""
        return "  ".join([str(self.path), *(f"{name} {100 * p:.1f} %" for name, p in self.top)])

    def to_json(self) -> str:
        """Return one line of JSON: path, predicted, confidence, top."""
        top = [{"class": name, "confidence": round(p, 6)} for name, p in self.top]
        predicted, confidence = self.top[0]
        content = {"predicted": predicted, "confidence": round(confidence, 6), "top": top}
        return json.dumps({"path": str(self.path)} | content)


def answers_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """Return one row per answer: path, predicted, confidence, class_2, confidence_2, ..."""
    rows = []
    for answer in answers:
        row: dict[str, object] = {"path": str(answer.path)}
        for place, (name, probability) in enumerate(answer.top, start=1):
            suffix = "" if place == 1 else f"_{place}"
            row |= {("class" if suffix else "predicted") + suffix: name, f"confidence{suffix}": round(probability, 6)}
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def find_images(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[Path], list[Skipped]]:
    """Return the images that files, folders (walked in full) and globs stand for, each once, and what was left out.

    A file named outright is taken whatever it is called.

    Raises:
        DataError: a path does not exist, or there is no image at all.
    """
    found: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for path in paths:
        # os.path: unlike Path's, these do not raise for a name that is too long or not to be seen.
        matches = (
            [path] if os.path.exists(path) else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        )
        if not matches:
            raise DataError(f"{path}: no such file or folder", "Give images, folders or quoted globs like 'new/*.jpg'")
        for match in matches:
            if os.path.isdir(match):
                walk = ImageWalk(match, follow_links)
                found.update(dict.fromkeys(walk.images(match)))
                skipped += [Skipped(str(match / each.path), each.reason) for each in walk.skipped]
            else:
                found[match] = None
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no images there", "Give images, or a folder that holds some")
    return list(found), skipped


def predict(
    model: Classifier,
    card: ModelCard,
    files: Sequence[Path],
    topk: int = 1,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Iterator[Answer]:
    """Yield one answer per file, in order, with the `topk` likeliest classes."""
    model.freeze("backbone")
    forward = FastForward(model.eval(), card.image_size, precision)
    readings = read_images(files, card.image_size, decoding_threads(workers))
    batches = _batches(progress(readings, "predicting", len(files)), forward.batch_size, card.image_size)
    for batch, rows in forward.stream(batches):
        with torch.inference_mode():
            logits = model.head(rows.to(forward.device).float()).cpu().double()
        tops = iter(_likeliest(logits, card, topk))
        for reading in batch:
            yield Answer(reading.path, () if reading.reason else next(tops), reading.reason)


def _batches(
    readings: Iterable[Reading], batch_size: int, image_size: int
) -> Iterator[tuple[list[Reading], np.ndarray]]:
    """Yield readings with the pixels (B, H, W, 3) of those that have some; a batch of none gets a black picture."""
    remaining = iter(readings)
    while batch := list(islice(remaining, batch_size)):
        pixels = [reading.pixels for reading in batch if reading.pixels is not None]
        yield batch, np.stack(pixels or [np.zeros((image_size, image_size, 3), np.uint8)])


def _likeliest(logits: Tensor, card: ModelCard, topk: int) -> list[tuple[tuple[str, float], ...]]:
    best = (logits / card.temperature).softmax(1).topk(min(topk, len(card.classes)))
    return [
        tuple((card.classes[label], probability) for probability, label in zip(*pair, strict=True))
        for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions on one split, and where in the index its images are."""

    split: int
    positions: np.ndarray
    predictions: Predictions


def predict_split(model: Classifier, dataset: Dataset, split: int, precision: str = "auto") -> SplitPredictions:
    """Return the predictions of a trained `model` on one split, by the fast forward pass that `predict` uses too."""
    device = model.mean.device
    if dataset.rows.are_pixels:
        classifier: nn.Module = FastClassifier(model, dataset.image_size, precision)
    else:
        classifier = model.trainable_part()
    batches = dataset.batches(split, forward_batch(device))
    return SplitPredictions(split, batches.positions, predict_batches(classifier, batches, device, batches.num_classes))
