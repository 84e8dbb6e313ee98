"""A run whose model is random, which takes no training, and the service that answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Checkpoint import ModelCard, save_checkpoint
from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.files.RunFolder import find_run
from MLPipeline.Models import build_model
from MLPipeline.Predict import load
from MLPipeline.serve.Batcher import Batcher
from MLPipeline.serve.Collection import Collection
from MLPipeline.serve.Metrics import ServerMetrics
from MLPipeline.serve.PredictApi import Service

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "=cmd|'-calc'!A1",
    "</script><script>alert(2)</script>",
    "bytes \udcff",
    "a\nb",
)
SIZE = 16


def random_run(folder: Path, classes: tuple[str, ...] = HOSTILE) -> Path:
    """Return the folder of a run called `001-random` in `folder`."""
    torch.manual_seed(1)
    card = ModelCard("cnn", classes, SIZE, {"kind": "none", "source": "", "sha256": ""})
    (folder / "001-random").mkdir(parents=True)
    save_checkpoint(folder / "001-random" / "model.pt", build_model("cnn", len(classes), SIZE), card)
    return folder / "001-random"


def picture(seed: int = 0, size: int = 24) -> bytes:
    """Return a PNG file of coloured noise."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


@contextmanager
def service_of(run: Path, collect: Path | None = None, max_waiting: int = 256) -> Iterator[Service]:
    """Yield the service that answers with the model of `run`."""
    classifier, metrics = load(run), ServerMetrics()
    with Batcher(classifier, workers=1, max_waiting=max_waiting, observe=metrics.batch) as batcher:
        collection = Collection(collect, classifier.classes) if collect else None
        yield Service(classifier, find_run(run.parent, str(run)), batcher, metrics, collection=collection)
