"""A training run in progress: which model is trained on which images, where, and since when."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.console.Console import say
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.RunFolder import Run
from MLPipeline.Head import reads_roots
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import ImageIndex
from MLPipeline.report.Drawing import Order
from MLPipeline.report.Report import summary_lines
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.steps.Prepare import preprocessing_of
from MLPipeline.steps.Quantize import NOT_QUANTIZED, Quantization
from MLPipeline.training.Phases import folds_are_heads
from MLPipeline.training.Resume import Standing
from MLPipeline.training.TrainState import EpochRecord
from MLPipeline.Weights import WeightsReport

_HASHED_AT_ONCE = 2**16  # images


@dataclass
class Job:
    """What the steps of a training run share."""

    run: Run
    config: Config
    index: ImageIndex
    inspection: Inspection
    model: Classifier
    weights: WeightsReport
    device: torch.device
    start: float  # of the process, by time.perf_counter
    quantization: Quantization = NOT_QUANTIZED
    history: list[EpochRecord] = field(default_factory=list)
    features_s: float = 0.0
    photos: Order | None = None  # of the images that the report will show
    fitted: dict[str, Any] | None = None  # how the head was fitted, where it was solved: an entry of metrics.json
    standing: Standing | None = None  # where the run to resume was stopped
    initial: nn.Module | None = None  # what each fold or repetition trains, the head or the model, before any training
    is_part: bool = False  # one of the trainings of --folds or --repeats
    test_size: int | None = None  # of the images that are tested and predicted, where it is another than in training
    sizes: list[dict[str, Any]] | None = None  # what the validation images say of each image size that was tried
    repeats: dict[str, Any] | None = None  # which trainings of --repeats are averaged, by which validation losses
    exchange: str | None = None  # which classes mirroring left to right exchanges; "": none, None: not tested
    head: Predictions | None = None  # of the best head on the validation images, once more than the head is trained

    def __post_init__(self) -> None:
        if self.config.folds or self.config.repeats > 1:
            self.initial = copy.deepcopy(self.model.head if folds_are_heads(self.config) else self.model)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How images become the input of the model; black and white of deep pictures come from the training images."""
        return preprocessing_of(self.config, self.index, self.inspection)

    @cached_property
    def row_keys(self) -> np.ndarray:
        """Under what the row of each image is stored, (N,) V16."""
        return self.inspection.row_keys(self.preprocessing.levels)

    @property
    def card(self) -> ModelCard:
        """What the checkpoint says about the model as it is now."""
        best = max((record.epoch for record in self.history if record.is_best), default=0)
        config = self.config
        return ModelCard(
            model=config.model,
            classes=self.index.classes,
            image_size=self.test_size or config.image_size,
            fit=config.fit,
            levels=self.preprocessing.levels,
            weights=asdict(self.weights),
            hidden=config.hidden,
            dropout=config.dropout,
            roots=reads_roots(self.model.head),
            epoch=best,
        )

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of what must be unchanged for an interrupted run to continue as if it had not been interrupted."""
        state, digests = hashlib.blake2b(digest_size=16), self.inspection.prints["digest"]
        for first in range(0, len(digests), _HASHED_AT_ONCE):  # so that no rank copies all of them
            state.update(digests[first : first + _HASHED_AT_ONCE].tobytes())
        for position in range(len(self.index)):
            state.update(self.index.name(position).encode("utf-8", "surrogateescape") + b"\0")
        for column in (self.index.labels, self.index.splits):
            state.update(column.data)
        classes = hashlib.blake2b("\0".join(self.index.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        levels = self.preprocessing.levels
        seen = {"levels": repr(levels.to_plain())} if levels and levels.by_depth else {}
        if self.model.quantized:
            seen |= {"backbone in 8 bits": self.model.quantized.digest}
        return {"images": state.hexdigest(), "classes": classes.hexdigest(), "weights": self.weights.sha256, **seen}


def introduce(job: Job, remarks: Sequence[str]) -> None:
    """Print what is trained on what, with `remarks`, and make sure that all ranks are about to do the same."""
    say(f"run      {job.run.path}")
    about = summary_lines(job.index, job.config, job.weights, job.device)
    for line in (*about, *job.preprocessing.lines(), *job.quantization.lines, *remarks):
        say(line)
    ranks.require_same(job.identity | {"settings": job.config.to_json()})
