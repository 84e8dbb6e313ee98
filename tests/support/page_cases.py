"""Synthetic runs for tests of pages, with any number of classes, difficult names and chosen predictions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Config import Config
from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import TEST, VAL, ImageIndex
from MLPipeline.report.Report import measure
from MLPipeline.report.RunPage import ReportContent
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\" onmouseover='alert(3)' x=\"",
    "{{ 7 * 7 }}",
    "new\nline",
    "\u202egnp.exe",
    "שלום",
    "🂡 & friends",
)
IMAGENET = WeightsReport("imagenet", "a package", "ab" * 32, "ImageNet weights")
NO_WEIGHTS = WeightsReport("none", "", "", "no ImageNet weights could be had: no network")


def config(**settings: object) -> Config:
    return Config(model="cnn", data=Path("Data"), image_size=16, epochs=3, batch_size=8, lr=0.01, **settings)


def records(num_epochs: int, val: bool = True) -> list[EpochRecord]:
    """Return records of epochs with improving metrics."""
    return [
        EpochRecord(e, 1 / e, 1 - 0.4 / e, *((1.1 / e, 1 - 0.5 / e) if val else (np.nan, np.nan)), 0.01, 2.0, True)
        for e in range(1, num_epochs + 1)
    ]


def index_of(root: Path, classes: tuple[str, ...], per_class: tuple[int, int, int], name: str = "") -> ImageIndex:
    """Return an index of drawn images (train, val, test of each class); with `name`, all are the same file."""
    root.mkdir(parents=True, exist_ok=True)
    picture = np.full((48, 64, 3), 120, np.uint8)
    labels, splits, names = [], [], []
    for label in range(len(classes)):
        for split, number in enumerate(per_class):
            for place in range(number):
                names.append(os.fsencode(name or f"{label}-{split}-{place}.png"))
                labels.append(label)
                splits.append(split)
                if not name or not (root / name).exists():
                    cv2.circle(picture, (32, 24), 4 + label % 16, (label * 37 % 255, 90, place * 60 % 255), -1)
                    (root / os.fsdecode(names[-1])).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    ends = np.cumsum([len(each) for each in names], dtype=np.int64)
    return ImageIndex(root, classes, np.array(labels, np.int32), np.array(splits, np.int8), (), b"".join(names), ends)


def scores_of(index: ImageIndex, split: int, shift: dict[int, int] | None = None, every: int = 3) -> SplitPredictions:
    """Return correct predictions; every `every`th image of a class in `shift` gets the class given there instead."""
    positions = index.positions(split)
    labels = torch.from_numpy(index.labels[positions]).long()
    answers = labels.clone()
    for place, label in enumerate(labels.tolist()):
        if label in (shift or {}) and place % every == 0:
            answers[place] = (shift or {})[label]
    sure = torch.linspace(1, 5, len(labels))[:, None]
    logits = sure * torch.nn.functional.one_hot(answers, len(index.classes)).float()
    return SplitPredictions(split, positions, Predictions(logits, labels))


def content_of(
    index: ImageIndex, shift: dict[int, int] | None = None, skipped: tuple[Skipped, ...] = (), **more: object
) -> ReportContent:
    """Return the report content of a finished run."""
    scored = [scores_of(index, split, shift) for split in (VAL, TEST)]
    has_val = len(index.positions(VAL)) > 0
    given = {
        "config": config(),
        "weights": IMAGENET,
        "index": replace(index, skipped=skipped),
        "history": records(3, has_val),
        "scored": scored,
        "metrics": measure(index, scored),
    }
    return ReportContent(**(given | more))
