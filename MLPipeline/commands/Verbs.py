"""The table of verbs. To add a verb, add a file with `run(config)` to this folder and a row to the table.

    repair = Verb("repair", "replace damaged images", "RepairImages", ("data", "verify"))

A setting that does not exist yet is added to `Config.py`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from MLPipeline.Config import Config

Command = Callable[[Config], None]


@dataclass(frozen=True)
class Verb:
    """One word after `python Engine.py`."""

    name: str
    help: str
    module: str  # the file in this folder with its `run`; "" for train, which is in Engine.py
    settings: tuple[str, ...]  # the fields of Config that are flags of the verb
    paths: str = ""  # how its positional arguments are shown, if it has any
    is_shared: bool = False  # whether all ranks take part under torchrun; otherwise only rank 0
    defaults: Mapping[str, object] = field(default_factory=dict)  # of settings that have another one in `Config`

    def default_text(self, setting: dataclasses.Field) -> str:
        """Return ` (0.15)`, the default of a flag of the verb in its help; empty if the help itself says it."""
        if self.defaults.get(setting.name, setting.default) is not None:
            return f" ({self.defaults.get(setting.name, setting.default)})"
        return " (none)" if setting.name in self.defaults else ""

    def command(self) -> Command:
        """Return the function that runs the verb, imported only now: `--help` must not wait for torch."""
        return importlib.import_module(f"MLPipeline.commands.{self.module}").run


_TRAINING = tuple(each.name for each in dataclasses.fields(Config) if each.metadata["is_for_training"])
_COMPUTING = ("follow_links", "workers", "device", "cache_limit", "precision", "output")
_IMAGES = ("data", "labels", "split_folders")
_SPLITTING = ("val_fraction", "test_fraction", "group", "fixes", "verify", "seed")
_ANSWERS = ("run", "csv", "overwrite", "json")

_SERVING = ("host", "port", "token", "open")

_ROWS = (
    Verb("train", "train, evaluate and save a classifier (no verb means this)", "", _TRAINING, is_shared=True),
    Verb(
        "evaluate",
        "score a run on its test images, or on any labelled folders",
        "EvaluateRun",
        (*_IMAGES, "split", "min_accuracy", "tta", *_ANSWERS, *_COMPUTING),
        is_shared=True,
    ),
    Verb(
        "predict",
        "predict the classes of images (files, folders or globs)",
        "PredictImages",
        ("sort_into", "heatmap", "topk", "tta", *_ANSWERS, *_COMPUTING),
        paths="[PATH ...]",
        is_shared=True,
    ),
    Verb(
        "audit",
        "look for problems in the images and labels, without training",
        "AuditImages",
        (*_IMAGES, "strict", *_SPLITTING, *_COMPUTING),
    ),
    Verb(
        "embed",
        "write the features of images to a file",
        "EmbedImages",
        ("run", "model", "to", *_COMPUTING),
        paths="[PATH ...]",
        is_shared=True,
        defaults={"model": None},
    ),
    Verb(
        "similar",
        "find the images that are most similar to an image, and copies of it",
        "FindSimilar",
        ("in_", "run", "model", "topk", "json", *_COMPUTING),
        paths="[PATH ...]",
        is_shared=True,
        defaults={"model": None, "topk": 12},
    ),
    Verb(
        "tune",
        "search learning rate, optimizer and head on stored features",
        "TuneHead",
        ("model", *_IMAGES, "weights", "fit", "minutes", *_SPLITTING, *_COMPUTING),
    ),
    Verb(
        "choose",
        "compare backbones on your training images, and print the command that trains the best",
        "ChooseModel",
        ("models", "sizes", *_IMAGES, "fit", "minutes", *_SPLITTING, *_COMPUTING),
    ),
    Verb(
        "compare",
        "test whether one of two runs is significantly better, and show on which images they differ",
        "CompareRuns",
        ("output",),
        paths="RUN RUN",
    ),
    Verb(
        "export",
        "write a run's model as ONNX, OpenVINO or pt2, with a script that predicts without this project",
        "ExportModel",
        ("run", "format", "int8", "workers", "output"),
    ),
    Verb(
        "serve",
        "answer images on a page and over HTTP",
        "ServeModel",
        ("run", "topk", "collect", *_SERVING, "public_name", "workers", "device", "precision", "output"),
    ),
    Verb(
        "label",
        "label photographs on a page that shows those that teach most; or decide on labels that look wrong",
        "LabelImages",
        ("review", "export_folders", "csv", "follow_links", *_SERVING, "workers", "device", "precision", "output"),
        paths="PHOTOS",
    ),
    Verb("runs", "list the runs in the output folder", "ListRuns", ("output",)),
    Verb("selftest", "check that everything works on this machine", "SelfTest", ("device", "output")),
)
VERBS = {verb.name: verb for verb in _ROWS}
