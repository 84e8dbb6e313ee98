"""Every setting once: its type, default, range and help; `CommandLine` makes flags of it, `--config` replays it.

A None means "not stated"; where the type does not allow it, the model's own default takes its place (`resolve`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from MLPipeline.Errors import UsageError, did_you_mean

VERBS = {
    "train": "train, evaluate and save a classifier (no verb means this)",
    "evaluate": "score a run on its test images, or on any labelled folders",
    "predict": "name the class of images, folders or globs",
    "runs": "list the runs in the output folder",
}
_ANY = tuple(VERBS)
_TRAIN, _EVALUATE, _PREDICT = ("train",), ("evaluate",), ("predict",)
_USES_MODEL = ("train", "evaluate", "predict")


def _flag(
    default: object,
    text: str,
    group: str,
    verbs: Sequence[str] = _TRAIN,
    short: str = "",
    choices: Sequence[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
) -> Any:
    described = dict(help=text, group=group, verbs=verbs, short=short, choices=choices, low=low, high=high)
    return field(default=default, metadata=described)


DEFAULT_DATA = Path("Data")


@dataclass(frozen=True)
class Config:
    """All settings of all verbs; flags are the field names with dashes.

    Raises:
        UsageError: a value is outside its range or not among its choices.
    """

    paths: tuple[Path, ...] = _flag((), "images, folders or globs", "images", _PREDICT)
    model: str = _flag("resnet50", "resnet18-152, efficientnet_b0-b7, efficientnet_lite0, cnn", "what to train")
    data: Path = _flag(
        None, "one folder per class, or train/val/test folders of them (Data)", "images", ("train", "evaluate")
    )
    output: Path = _flag(Path("output"), "where runs are written", "output", _ANY)
    name: str | None = _flag(None, "name of the run (the model's)", "output")
    config: Path | None = _flag(None, "replay a run's config.json; other flags win over it", "output")
    weights: str = _flag("auto", "auto, imagenet, none or a file", "what to train")
    image_size: int = _flag(None, "side of the square images, in pixels", "images", low=8, high=4096)
    epochs: int = _flag(None, "passes over the training images", "training", low=1, high=100_000)
    batch_size: int = _flag(None, "images per step", "training", _USES_MODEL, short="-b", low=1, high=65_536)
    optimizer: str = _flag(None, "update rule", "training", choices=("adam", "adamw", "sgd"))
    lr: float = _flag(None, "learning rate", "training", low=1e-12, high=100)
    weight_decay: float = _flag(0.0, "pull of the weights towards zero", "training", low=0, high=10)
    label_smoothing: float = _flag(0.0, "share of the label spread over all classes", "training", low=0, high=0.99)
    freeze: str = _flag(None, "backbone, none, or the last stage to keep fixed (layer3)", "what to train")
    patience: int | None = _flag(
        None, "stop after this many epochs without a better validation loss", "training", low=1, high=100_000
    )
    val_fraction: float = _flag(0.15, "share held out to choose the best epoch", "images", low=0, high=0.9)
    test_fraction: float = _flag(0.15, "share held out for the final figures", "images", low=0, high=0.9)
    follow_links: bool = _flag(
        False, "use links that lead out of the data folder", "images", ("train", "evaluate", "predict")
    )
    seed: int = _flag(0, "same seed, same machine: same numbers", "training", low=0, high=2**64 - 1)
    run: str | None = _flag(None, "number, name or path of a run (the newest)", "what to use", ("evaluate", "predict"))
    split: str = _flag("test", "which images", "what to use", _EVALUATE, choices=("train", "val", "test"))
    min_accuracy: float | None = _flag(None, "exit with 5 below this accuracy", "what to use", _EVALUATE, low=0, high=1)
    topk: int = _flag(3, "classes to name per image", "answers", _PREDICT, low=1, high=100_000)
    csv: Path | None = _flag(None, "write the answers to this table", "answers", ("predict", "evaluate"))
    json: bool = _flag(False, "print JSON instead of text", "answers", ("predict", "evaluate"))
    workers: int | None = _flag(
        None, "decoding threads (one per core)", "machine", _USES_MODEL, short="-j", low=1, high=1024
    )
    device: str = _flag("auto", "where to compute", "machine", _USES_MODEL, choices=("auto", "cpu", "cuda", "mps"))
    precision: str = _flag(
        "auto", "number format (the fastest safe one)", "machine", _USES_MODEL, choices=("auto", "fp32", "bf16", "fp16")
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check(each, getattr(self, each.name))
        if self.val_fraction + self.test_fraction >= 1:
            raise UsageError("--val-fraction and --test-fraction leave nothing to train on", "Let them sum to under 1")

    def resolve(self, model_defaults: Mapping[str, Any]) -> Config:
        """Return a copy whose unstated values are the model's own."""
        return dataclasses.replace(
            self, **{name: value for name, value in model_defaults.items() if getattr(self, name) is None}
        )

    def to_json(self) -> str:
        """Return the settings as JSON that `--config` replays."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        return json.dumps({k: v for k, v in values.items() if k not in ("paths", "config")}, indent=2) + "\n"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings a run's `config.json` holds, by field name.

    Raises:
        UsageError: the file is missing, is not JSON, or names a setting we do not have.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        items = stored.items()
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"--config {path}: not readable as settings", "Give a run's config.json") from error
    hints = typing.get_type_hints(Config)
    for name in stored:
        if name not in hints:
            raise UsageError(f"--config {path}: no setting {name!r}", did_you_mean(name, hints))
    try:
        return {k: plain_type(hints[k])(v) if v is not None else None for k, v in items}
    except (TypeError, ValueError) as error:
        raise UsageError(f"--config {path}: {error}", "Give a run's config.json") from error


def flag_name(name: str) -> str:
    """Return the flag of a field: `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def _check(each: dataclasses.Field, value: Any) -> None:
    about = each.metadata
    if value is None:
        return
    if about["choices"] and value not in about["choices"]:
        raise UsageError(f"{flag_name(each.name)} {value}: not allowed", did_you_mean(str(value), about["choices"]))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not about["low"] <= value <= about["high"]:
        raise UsageError(
            f"{flag_name(each.name)} {value}: out of range", f"Give a number from {about['low']} to {about['high']}"
        )


def plain_type(hint: object) -> Any:
    """Return the type a value is converted with: `int` for `int | None`."""
    return next(t for t in typing.get_args(hint) if t is not type(None)) if isinstance(hint, types.UnionType) else hint
