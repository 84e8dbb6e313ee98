"""The table of verbs. To add one: a file in this folder with `run(config)`, and a row here.

    export = Verb("export", "write the model as ONNX", "ExportModel", ("run", "format"))

A setting that no verb has yet goes into `Config.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from MLPipeline.Config import Config

Command = Callable[[Config], None]


@dataclass(frozen=True)
class Verb:
    """One word after `python Engine.py`."""

    name: str
    help: str
    module: str  # the file in this folder whose `run` does it; "" for train, which is Engine's own
    settings: tuple[str, ...]  # the fields of Config that are its flags
    paths: str = ""  # how its positional arguments are shown, where it takes any
    is_shared: bool = False  # whether all ranks take part under torchrun; else rank 0 alone

    def command(self) -> Command:
        """Return the function that does it, importing only now what it needs: `--help` must not wait for torch."""
        return importlib.import_module(f"MLPipeline.commands.{self.module}").run


_TRAINING = tuple(each.name for each in dataclasses.fields(Config) if each.metadata["is_for_training"])
_COMPUTING = ("follow_links", "workers", "device", "cache_limit", "precision", "output")
_IMAGES = ("data", "labels", "split_folders")
_SPLITTING = ("val_fraction", "test_fraction", "group", "fixes", "verify", "seed")
_ANSWERS = ("run", "csv", "json")

_ROWS = (
    Verb("train", "train, evaluate and save a classifier (no verb means this)", "", _TRAINING, is_shared=True),
    Verb(
        "evaluate",
        "score a run on its test images, or on any labelled folders",
        "EvaluateRun",
        (*_IMAGES, "split", "min_accuracy", *_ANSWERS, *_COMPUTING),
        is_shared=True,
    ),
    Verb(
        "predict",
        "name the class of images, folders or globs",
        "PredictImages",
        ("sort_into", "heatmap", "topk", *_ANSWERS, *_COMPUTING),
        paths="[PATH ...]",
        is_shared=True,
    ),
    Verb(
        "audit",
        "look for what is wrong with the images, without training",
        "AuditImages",
        (*_IMAGES, "strict", *_SPLITTING, *_COMPUTING),
    ),
    Verb(
        "tune",
        "search learning rate, optimizer and head on stored features",
        "TuneHead",
        ("model", *_IMAGES, "weights", "fit", "minutes", *_SPLITTING, *_COMPUTING),
    ),
    Verb(
        "compare",
        "say whether one of two runs is really better, and on which images they differ",
        "CompareRuns",
        ("output",),
        paths="RUN RUN",
    ),
    Verb("runs", "list the runs in the output folder", "ListRuns", ("output",)),
)
VERBS = {verb.name: verb for verb in _ROWS}
