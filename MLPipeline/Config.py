"""All settings: type, default, range and help. `CommandLine` generates the flags from them; `--config` reads JSON.

None means that the user has not set a value. Where the type does not allow None, `resolve` uses the model's default.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from MLPipeline.Errors import UsageError, did_you_mean
from MLPipeline.files.Json import dump_json, read_json
from MLPipeline.files.PlainValues import is_usable_text, shown


def _flag(
    default: object,
    text: str,
    group: str,
    short: str = "",
    choices: Sequence[str] = (),
    low: float = -math.inf,
    high: float = math.inf,
    is_for_training: bool = True,
) -> Any:
    """Return a dataclass field with its help, group and range; `commands/Verbs.py` lists the verbs that take it."""
    about = dict(help=text, group=group, short=short, choices=choices, low=low, high=high)
    return field(default=default, metadata=about | {"is_for_training": is_for_training})


_verb_flag = partial(_flag, is_for_training=False)  # of verbs other than training

DEFAULT_DATA = Path("Data")
FITS = ("stretch", "crop", "pad")
HEADS = ("linear", "ridge", "logistic", "auto")
# Defaults for what neither the user nor the model sets.
NEUTRAL: Mapping[str, Any] = {
    "schedule": "constant",
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "swa": 0.0,
    "clip_norm": 0.0,
    "layer_decay": 1.0,
    "augment": "none",
    "head": "linear",
}
_MAX_SETTINGS_BYTES = 10**6
_NOT_STORED = ("paths", "config", "resume", "find_lr", "to", "in_", "models", "sizes")


@dataclass(frozen=True)
class Config:
    """All settings of all verbs; flags are the field names with dashes.

    Raises:
        UsageError: a value is outside its range or not among its choices.
    """

    paths: tuple[Path, ...] = _verb_flag((), "images, folders or globs; for compare, two runs", "images")
    model: str = _flag(
        "resnet50",
        "efficientnet_lite0-lite2, resnet18-152, efficientnet_b0-b7, cnn, cnn_residual, or torchvision's: vgg16...; "
        "for training also auto: the best of those whose weights are here",
        "what to train",
    )
    recipe: str | None = _flag(
        None, "a set of flags: documents, cards, cifar10, cifar10-best, tenclass or augment (none)", "what to train"
    )
    data: Path = _flag(
        None,
        "folder with one folder per class, or with train/val/test folders of them; or cifar10, cifar100, fashionmnist, "
        "flowers102, oxfordpets (Data)",
        "images",
    )
    output: Path = _flag(Path("output"), "folder for the runs", "output")
    name: str | None = _flag(None, "name of the run (the model's)", "output")
    config: Path | None = _flag(None, "repeat a run from its config.json; other flags override it (none)", "output")
    resume: str | None = _flag(None, "continue an interrupted run: number, name or path (none)", "output")
    weights: str = _flag("auto", "initial weights: auto, imagenet, none or a file", "what to train")
    image_size: int = _flag(None, "width and height of the images in pixels (the model's)", "images", low=8, high=4096)
    test_size: int | None = _flag(
        None,
        "width and height of the images when the fine-tuned model is tested and used (what validates best, after "
        "training on crops; else --image-size)",
        "images",
        low=8,
        high=4096,
    )
    fit: str = _flag(
        "stretch", "how images are made square: stretched, cropped to the centre, or padded", "images", choices=FITS
    )
    epochs: int = _flag(None, "passes over the training images (the model's)", "training", low=1, high=100_000)
    batch_size: int = _flag(None, "images per training step (the model's)", "training", short="-b", low=1, high=65_536)
    optimizer: str = _flag(None, "optimizer (the model's)", "training", choices=("adam", "adamw", "sgd"))
    lr: float = _flag(None, "learning rate (the model's)", "training", low=1e-12, high=100)
    find_lr: bool = _flag(False, "only run a learning-rate range test: a plot and a suggested rate", "training")
    schedule: str = _flag(
        None,
        "learning-rate schedule (the model's)",
        "training",
        choices=("constant", "step", "cosine", "onecycle"),
    )
    weight_decay: float = _flag(None, "weight decay (the model's)", "training", low=0, high=10)
    label_smoothing: float = _flag(None, "label smoothing (the model's)", "training", low=0, high=0.99)
    ema: float = _flag(
        None,
        "decay of the exponential moving average of the weights; 0: no average (the model's)",
        "training",
        low=0,
        high=0.99999,
    )
    swa: float = _flag(
        None,
        "share of the epochs, at the end, whose weights are averaged (stochastic weight averaging); 0: none (the "
        "model's)",
        "training",
        low=0,
        high=1,
    )
    clip_norm: float = _flag(None, "maximum gradient norm; 0: no clipping (the model's)", "training", low=0, high=1e6)
    layer_decay: float = _flag(
        None,
        "factor on the learning rate from each stage to the stage before it (the model's)",
        "training",
        low=0.01,
        high=1,
    )
    augment: str = _flag(
        None, "comma-separated: rotate,translate,hflip,vflip,jitter,crop,erase,... or none (the model's)", "training"
    )
    balance: str = _flag(
        "none", "against class imbalance: weight the loss, or sample", "training", choices=("none", "loss", "sampler")
    )
    freeze: str = _flag(
        None, "what stays frozen: backbone, none, or all stages up to this one: layer3 (the model's)", "what to train"
    )
    hidden: int | None = _flag(
        None, "width of an additional hidden layer in the head (none)", "what to train", low=1, high=100_000
    )
    dropout: float | None = _flag(
        None, "dropout rate before the last layer (the model's)", "what to train", low=0, high=0.95
    )
    head: str = _flag(
        None,
        "how the head on a frozen backbone is fitted: linear (gradient descent), ridge (closed form), logistic "
        "(L-BFGS), or auto: the best of the last two out of fold (the model's)",
        "what to train",
        choices=HEADS,
    )
    unfreeze_after: int | None = _flag(
        None,
        "train the head for this many epochs, then also the stages that --freeze leaves free (never)",
        "what to train",
        low=1,
        high=100_000,
    )
    views: int | None = _flag(
        None, "augmented views stored per image for a frozen backbone (none)", "training", low=1, high=1000
    )
    time: float | None = _flag(
        None, "plan the training to finish within this many minutes (no limit)", "training", low=0.1, high=1e6
    )
    patience: int | None = _flag(
        None,
        "early stopping: epochs to wait for a lower validation loss (never)",
        "training",
        low=1,
        high=100_000,
    )
    folds: int | None = _flag(
        None,
        "cross-validation: every image is tested once, by what was trained without its fold (no folds)",
        "training",
        low=2,
        high=100,
    )
    repeats: int = _flag(
        1,
        "train this many times in all, with other seeds, and keep the mean of the weights where it validates better",
        "training",
        low=1,
        high=100,
    )
    ensemble: bool = _flag(
        False,
        "with --folds: keep the average of the heads or networks of all folds where it validates better",
        "training",
    )
    val_fraction: float = _flag(0.15, "share of the images for validation", "images", low=0, high=0.9)
    test_fraction: float = _flag(0.15, "share of the images for the test", "images", low=0, high=0.9)
    group: str | None = _flag(
        None, "regular expression: images whose paths match it with the same text stay in one split (none)", "images"
    )
    labels: Path | None = _flag(
        None, "CSV, TSV or Parquet table of labels: path, label[, split, group] (the folder names)", "images"
    )
    split_folders: str = _flag(
        "auto",
        "whether folders named train, test_images etc. are splits; no: every folder is a class",
        "images",
        choices=("auto", "yes", "no"),
    )
    fixes: Path | None = _flag(None, "table of corrected labels: path, label (none)", "images")
    follow_links: bool = _flag(False, "follow symbolic links that lead out of the data folder", "images")
    verify: bool = _flag(False, "read every file again, not only those whose size or time has changed", "images")
    strict: bool = _verb_flag(False, "exit with code 5 if a serious problem is found", "images")
    seed: int = _flag(
        0, "random seed; on one machine, equal seeds give equal results", "training", low=0, high=2**64 - 1
    )
    run: str | None = _verb_flag(None, "number, name or path of a run (the newest)", "what to use")
    split: str = _verb_flag("test", "split to evaluate", "what to use", choices=("train", "val", "test"))
    min_accuracy: float | None = _verb_flag(
        None, "exit with code 5 if the accuracy is lower (no limit)", "what to use", low=0, high=1
    )
    target_precision: float | None = _flag(
        None,
        "share of the answers that are to be correct; less confident ones are withheld (none)",
        "training",
        low=0,
        high=1,
    )
    models: str | None = _verb_flag(
        None,
        "models to compare, comma-separated; NAME=FILE gives the weights of one (all whose ImageNet weights are here)",
        "what to train",
    )
    sizes: str | None = _verb_flag(
        None, "image sizes to compare, comma-separated: 160,200,260 (each model's)", "images"
    )
    minutes: float = _verb_flag(5.0, "duration of the search; for choose, at most", "training", low=0.1, high=1e5)
    sort_into: Path | None = _verb_flag(
        None, "copy each image into a folder of its predicted class in this folder (none)", "answers"
    )
    tta: bool = _verb_flag(
        False, "average each answer over the image and its mirror image, at twice the time", "what to use"
    )
    heatmap: bool = _verb_flag(False, "write heat maps of the regions that each prediction is based on", "answers")
    topk: int = _verb_flag(
        3, "number of classes, or of similar images, shown per image", "answers", low=1, high=100_000
    )
    csv: Path | None = _verb_flag(
        None,
        "write the predictions to this CSV file; - is standard output; label: keep the labels in it (none)",
        "answers",
    )
    overwrite: bool = _verb_flag(False, "let --csv replace a text file that is not a table of predictions", "answers")
    to: Path | None = _verb_flag(None, "file for the features: features.npz or features.parquet (required)", "answers")
    in_: Path | None = _verb_flag(
        None, "where to search: a folder, a glob, or a file that embed has written (required)", "images"
    )
    format: str = _verb_flag("onnx", "format of the exported model", "what to use", choices=("onnx", "openvino", "pt2"))
    int8: bool = _verb_flag(
        False, "quantize to 8-bit integers; refused if the accuracy falls by more than a point", "what to use"
    )
    json: bool = _verb_flag(False, "print JSON instead of text", "answers")
    host: str = _verb_flag(
        "127.0.0.1", "address to serve on; anything but this machine's own requires --token", "server"
    )
    port: int = _verb_flag(8000, "port to serve on; 0: a free one", "server", low=0, high=65_535)
    token: str | None = _verb_flag(None, "secret that every request must have, 12 characters or more (none)", "server")
    public_name: str | None = _verb_flag(
        None, "name under which a proxy with https shows this server; requires --token (none)", "server"
    )
    collect: Path | None = _verb_flag(
        None, "keep the images that are sent, with their answers and corrections, in this folder (none)", "server"
    )
    review: str | None = _verb_flag(
        None, "label: decide on the suspicious labels of this run (number, name or path)", "images"
    )
    export_folders: Path | None = _verb_flag(
        None, "copy the labelled pictures into class folders in this folder, without a page (none)", "output"
    )
    open: bool = _verb_flag(False, "open the page in the browser", "server")
    workers: int | None = _flag(
        None, "number of decoding threads (one per core)", "machine", short="-j", low=1, high=1024
    )
    device: str = _flag("auto", "device to compute on", "machine", choices=("auto", "cpu", "cuda", "mps"))
    cache_limit: float | None = _flag(
        None, "maximum size of output/cache in GB (20, in a container at most its memory)", "machine", low=0, high=1e6
    )
    compile: str = _flag(
        "auto", "use torch.compile for training; auto: on a GPU only", "machine", choices=("auto", "on", "off")
    )
    precision: str = _flag(
        "auto",
        "number format; auto: the fastest that is safe on this device; int8: a frozen backbone in 8 bits",
        "machine",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check(each, getattr(self, each.name))
        if self.val_fraction + self.test_fraction >= 1:
            raise UsageError(
                "--val-fraction and --test-fraction leave no images to train on", "Their sum must be below 1"
            )

    def resolve(self, model_defaults: Mapping[str, Any]) -> Config:
        """Return a copy in which values that are not set have the model's defaults."""
        assert all(getattr(Config, name) is None for name in model_defaults), "a setting has a default of its own"
        return dataclasses.replace(
            self, **{name: value for name, value in model_defaults.items() if getattr(self, name) is None}
        )

    def to_json(self) -> str:
        """Return the settings as JSON, which `--config` reads."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        return dump_json({k: v for k, v in values.items() if k not in _NOT_STORED}, indent=2) + "\n"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a run's `config.json` by field name.

    Raises:
        UsageError: the file is missing or not JSON, or contains an unknown setting or a value of a wrong type.
    """
    try:
        stored = read_json(path, _MAX_SETTINGS_BYTES)
    except ValueError as error:
        raise UsageError(
            f"--config {path}: cannot be read as settings ({error})", "Give a run's config.json"
        ) from error
    if not isinstance(stored, dict):
        raise UsageError(f"--config {path}: contains no settings", "Give a run's config.json")
    return typed_settings(stored, f"--config {path}")


def typed_settings(stored: Mapping[str, object], where: str) -> dict[str, Any]:
    """Return settings by field name, without those that are None.

    Raises:
        UsageError: there is an unknown setting, or a value of a wrong type.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(Config).items() if name not in _NOT_STORED}
    settings = {}
    for name, value in stored.items():
        if name not in hints:
            raise UsageError(f"{where}: unknown setting {name!r}", did_you_mean(name, hints))
        if value is not None:
            settings[name] = _from_json(plain_type(hints[name]), value, f"{where}: {name}")
    return settings


def flag_name(name: str) -> str:
    """Return the flag of a field: `--batch-size` for `batch_size`, `--in` for `in_` (`in` is a word of Python)."""
    return "--" + name.rstrip("_").replace("_", "-")


def flag_words(name: str, value: object) -> list[str]:
    """Return the words that set a field on the command line; a value that looks like a flag is joined to its flag."""
    flag, text = flag_name(name), str(value)
    if value is True:
        return [flag]
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


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


def _from_json(kind: Any, value: object, where: str) -> Any:
    """Return `value` as a `kind`; a string for an int, 7.9 for an int or "no" for a bool raise an error."""
    written: Any = {Path: str, float: (int, float)}.get(kind, kind)
    if not isinstance(value, written) or isinstance(value, bool) != (kind is bool):  # True is an int to Python
        raise UsageError(f"{where} is {shown(value)}", f"Give a value of type {kind.__name__}")
    if isinstance(value, str) and not is_usable_text(value):
        raise UsageError(f"{where} is {shown(value)}", "Give a text that a file name can have")
    try:
        return kind(value)
    except OverflowError as error:
        raise UsageError(f"{where} is {shown(value)}", "Give a smaller number") from error


def plain_type(hint: object) -> Any:
    """Return the type that converts a value: `int` for `int | None`."""
    return next(t for t in typing.get_args(hint) if t is not type(None)) if isinstance(hint, types.UnionType) else hint
