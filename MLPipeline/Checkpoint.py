"""`model.pt`: a trained classifier with its class names, architecture, preprocessing and weights.

The file contains plain types only, so that `torch.load(path, weights_only=True)` reads it without this package.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import FITS
from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.Levels import Levels, are_levels
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Errors import DataError, UsageError, is_out_of_memory, within_memory
from MLPipeline.files.PlainValues import are_texts, is_number, is_text, is_whole, shown
from MLPipeline.files.TensorChecks import check_numbers
from MLPipeline.files.TensorFile import load_file, save_file
from MLPipeline.files.TensorOutline import TensorOutline
from MLPipeline.Head import make_head, with_roots
from MLPipeline.images.ClassNames import class_name
from MLPipeline.Models import WithoutMemory, build_model
from MLPipeline.onednn.Int8Network import TENSORS, Int8Network, Shift
from MLPipeline.scoring.MirrorAverage import MirrorAverage
from MLPipeline.scoring.Unknown import UNREACHABLE, FeatureCenters, UnknownRule

FORMAT = 1
_MAX_IMAGE_SIZE = 4096  # like --image-size: an untrusted file must not exhaust the memory
_MAX_CLASSES = 100_000
_LARGEST = sys.float_info.max
_INT8, _EARLIER_INT8 = {"ranges", "means", "shift"}, {"network", "shift"}  # the entries of a backbone in 8 bits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelCard:
    """The description of a model in its checkpoint: everything except the weights."""

    model: str
    classes: tuple[str, ...]  # in the order of the logits; always matched by name
    image_size: int  # side of the square input images, in pixels
    weights: Mapping[str, str]  # kind, source and sha256 of the initial weights
    fit: str = STRETCH  # how images are fitted to the square; see `Fit`
    levels: Levels | None = None  # black and white levels of images with more than 8 bits; None in older files
    hidden: int | None = None  # of the head, as in `make_head`
    dropout: float | None = None
    roots: bool = False  # whether the head reads the square roots of the features
    epoch: int = 0  # the best epoch, which the weights come from
    temperature: float = 1.0  # the divisor of the logits before the softmax
    fingerprint: FeatureCenters | None = None  # of the training images; None: none stored
    unknown: UnknownRule | None = None  # which answers are given; None: all
    tta: MirrorAverage | None = None  # what `--tta` needs; None: it was not measured
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are converted to the input of the model, except for their size."""
        return Preprocessing(self.fit, self.levels)

    def with_mirror(self) -> ModelCard:
        """Return the card for answers that are averaged over each image and its mirror image.

        Raises:
            UsageError: that was not measured, or the classes do not survive it.
        """
        if self.tta is None:
            what = "--tta: the model file does not say how to calibrate averaged answers"
            raise UsageError(what, "Leave it out, or train again with validation images")
        if self.tta.refusal:
            raise UsageError(f"--tta: mirror images must not be used: {self.tta.refusal}", "Leave it out")
        unknown = self.unknown
        if unknown and self.tta.threshold is not None:
            unknown = replace(unknown, min_confidence=self.tta.threshold)
        return replace(self, temperature=self.tta.temperature, unknown=unknown)


_HINT = "Give a run's model.pt"
# What each entry of the file must be, and how an error says so. Anyone may have written the file.
_ENTRIES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "model": (is_text, "the name of a model"),
    "classes": (lambda names: _are_classes(names), "a list of different names"),
    "image_size": (lambda size: is_whole(size, 1, _MAX_IMAGE_SIZE), f"a whole number from 1 to {_MAX_IMAGE_SIZE}"),
    "weights": (are_texts, "texts by name"),
    "epoch": (lambda epoch: is_whole(epoch, 0, 10**9), "a whole number from 0"),
    "temperature": (lambda value: is_number(value, 1e-3, 1e3), "a number from 0.001 to 1000"),
    "metrics": (lambda metrics: _are_numbers(metrics), "finite numbers by name"),
    "versions": (are_texts, "texts by name"),
    "state_dict": (lambda state: isinstance(state, Mapping), "tensors by name"),
}
# Entries that may be absent or None, in files of earlier versions or because the model has no such thing.
_OPTIONAL: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "hidden": (lambda width: is_whole(width, 1, 100_000), "a whole number from 1 to 100000"),
    "dropout": (lambda rate: is_number(rate, 0, 0.95), "a number from 0 to 0.95"),
    "roots": (lambda value: isinstance(value, bool), "True or False"),
    "fit": (lambda fit: isinstance(fit, str) and fit in FITS, f"one of {', '.join(FITS)}"),
    "levels": (are_levels, "black and white levels by depth"),
    "fingerprint": (lambda part: _is_part(part, FeatureCenters), "the features of the training images"),
    "unknown": (lambda part: _is_part(part, UnknownRule), "a rule for which answers are given"),
    "tta": (lambda part: _is_part(part, MirrorAverage), "how answers for mirror images are used"),
    "int8": (lambda part: _is_int8(part), "a backbone in 8 bits"),
}
# Stored as dicts; may be absent.
_PARTS: Mapping[str, Any] = {"fingerprint": FeatureCenters, "unknown": UnknownRule, "tta": MirrorAverage}
_PART_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "centers": lambda centers: isinstance(centers, TensorOutline) and centers.dtype.is_floating_point,
    "max_distance": lambda distance: isinstance(distance, float) and distance >= 0,  # inf: too few images to say
    "temperature": lambda value: is_number(value, 1e-3, 1e3),
    "threshold": lambda value: value is None or is_number(value, 0, UNREACHABLE),
    "refusal": is_text,
    "target_precision": lambda share: is_number(share, 0, 1),
    "min_confidence": lambda threshold: is_number(threshold, 0, UNREACHABLE),
    "coverage": lambda share: is_number(share, 0, 1),
    "precision": lambda share: share is None or is_number(share, 0, 1),
    "precision_ci95": lambda pair: (
        isinstance(pair, tuple) and len(pair) == 2 and all(is_number(share, 0, 1) for share in pair)
    ),
}


def save_checkpoint(path: Path, model: Classifier, card: ModelCard) -> None:
    """Write `model` and its card to `path` atomically; the previous file is kept as `model.pt.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    described = asdict(card) | {"classes": list(card.classes), "versions": versions(), "format": FORMAT}
    described |= {"levels": None if card.levels is None else card.levels.to_plain()}
    described |= {"int8": None if model.quantized is None else _stored(model.quantized)}
    described |= {"preprocessing": "RGB, resized (area when shrinking), uint8; scaled and normalised inside the model"}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(path, described | {"state_dict": state})


def load_checkpoint(path: Path) -> tuple[Classifier, ModelCard]:
    """Return the classifier stored in `path`, in eval mode on the CPU, and its card.

    Raises:
        DataError: the file is missing, damaged, unsafe, or not a checkpoint of this pipeline.
    """
    try:
        stored: Any = load_file(path, lambda outline: _check(path, outline))
        return _rebuild(path, stored)
    except DataError as error:
        previous = path.with_name(path.name + ".prev")
        if not previous.is_file():
            raise
        raise DataError(error.what, f"The previous checkpoint is kept: --run {previous}") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and torch."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _check(path: Path, outline: Any) -> None:
    """Make sure that the file describes a model of ours and has exactly its tensors, before any of them is read.

    Raises:
        DataError: it does not.
    """
    if not isinstance(outline, dict) or outline.get("format") != FORMAT or not outline.keys() >= _ENTRIES.keys():
        raise DataError(f"{path}: is not a checkpoint of this pipeline", _HINT)
    for name, (is_sound, expected) in {**_ENTRIES, **_OPTIONAL}.items():
        value = outline.get(name)
        if not (value is None and name in _OPTIONAL) and not is_sound(value):
            raise DataError(f"{path}: its entry {name} is {shown(value)}, not {expected}", _HINT)
    fingerprint, classes = outline.get("fingerprint"), outline["classes"]
    if fingerprint and (len(shape := fingerprint["centers"].shape) != 2 or shape[0] != len(classes)):
        raise DataError(f"{path}: its entry fingerprint is not of {len(classes)} classes", _HINT)
    with WithoutMemory():  # also what torch adds to a state dict
        _fill(path, _build(path, outline), outline["model"], _meta_tensors(path, outline))


def _build(path: Path, stored: Mapping[str, Any]) -> Classifier:
    """Return the model that the checked card describes, without memory for its tensors: a file may name a huge one."""
    try:
        with WithoutMemory(), within_memory(f"while the model of {path} was built", "Use a smaller model"):
            model = build_model(stored["model"], len(stored["classes"]), stored["image_size"])
            model.head = make_head(model.head, stored.get("hidden"), stored.get("dropout"))
            model.head = with_roots(model.head) if stored.get("roots") else model.head
    except UsageError as error:
        raise DataError(f"{path}: {error.what}", "Train it again, or use the code it was trained with") from error
    return model


def _meta_tensors(path: Path, outline: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a tensor without memory for each tensor of the state dict."""
    state = outline["state_dict"]
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorOutline):
            what = f"{path}: its tensors do not fit {outline['model']}: {shown(name)} is no tensor"
            raise DataError(what, _HINT)
    if len({tensor.storage for tensor in state.values()}) < len(state):
        raise DataError(f"{path}: several of its tensors are one and the same", _HINT)
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in state.items()}


def _fill(path: Path, model: Classifier, name: str, state: Mapping[str, Tensor]) -> None:
    """Make the tensors of `state` those of `model`, whose names, shapes and types they must have."""
    types = {part: own.dtype for part, own in model.state_dict().items()}
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        difference = str(error).splitlines()[-1].strip()[:200]  # torch lists all differences, one per line
        raise DataError(f"{path}: its tensors do not fit {name}: {difference}", _HINT) from error
    for part, dtype in types.items():
        if part in state and state[part].dtype != dtype:  # torch adds counters of BatchNorm that are missing
            what = f"{path}: its tensors do not fit {name}: {part} has type {state[part].dtype}, not {dtype}"
            raise DataError(what, _HINT)


def _rebuild(path: Path, stored: Mapping[str, Any]) -> tuple[Classifier, ModelCard]:
    """Return the model and its card; its tensors are those of the file, so that none is made and filled for nothing."""
    card, state = _read_card(stored), stored["state_dict"]
    model = _build(path, stored)
    check_numbers(path, state, model.state_dict())
    if card.fingerprint:
        check_numbers(path, {"fingerprint": card.fingerprint.centers}, {})
    _fill(path, model, card.model, state)
    model.quantized = _quantized(path, stored.get("int8"))
    if bool((model.std <= 0).any()):
        raise DataError(f"{path}: damaged: a standard deviation that is not positive", _HINT)
    return model.eval(), card


def _read_card(stored: Mapping[str, Any]) -> ModelCard:
    """Return the card; files of earlier versions may lack a fingerprint, a rule for `unknown`, levels or a fit."""
    values = {each.name: stored[each.name] for each in fields(ModelCard) if each.name in stored}
    for name, kind in _PARTS.items():
        values[name] = None if values.get(name) is None else kind(**values[name])
    levels = None if values.get("levels") is None else Levels.from_plain(values["levels"])
    return ModelCard(**values | {"classes": tuple(stored["classes"]), "levels": levels})


def _are_classes(names: Any) -> bool:
    """Return whether `names` is a list of texts that differ, also to whom accents composed or not are the same."""
    return (
        isinstance(names, list)
        and 0 < len(names) <= _MAX_CLASSES
        and all(is_text(name) and name.strip() for name in names)
        and len({class_name(name) for name in names}) == len(names)
    )


def _are_numbers(metrics: Any) -> bool:
    return isinstance(metrics, Mapping) and all(
        is_text(name) and is_number(value, -_LARGEST, _LARGEST) for name, value in metrics.items()
    )


def _stored(network: Int8Network) -> dict[str, Any]:
    """Return a backbone in 8 bits as plain types and tensors."""
    shift = None if network.shift is None else asdict(network.shift)
    return {"ranges": network.ranges, "means": network.means, "shift": shift}


def _quantized(path: Path, stored: Mapping[str, Any] | None) -> Int8Network | None:
    if stored is None:
        return None
    shift = None if stored["shift"] is None else Shift(**stored["shift"])
    if set(stored) == _EARLIER_INT8:
        moved = f": {shift.to_text()}" if shift else ""
        logger.warning("%s was trained in 8 bits by an earlier version, and is not quantized here%s", path, moved)
        return None
    check_numbers(path, {name: stored[name] for name in ("ranges", "means")}, {})
    return Int8Network(stored["ranges"], stored["means"], shift)


def _is_int8(stored: Any) -> bool:
    if not isinstance(stored, dict) or set(stored) not in (_INT8, _EARLIER_INT8):
        return False
    shift, tensors = stored["shift"], [stored[name] for name in stored if name != "shift"]
    is_sound = shift is None or (isinstance(shift, dict) and set(shift) == {"num_images", "changed", "largest"})
    if shift is not None and is_sound:
        shares = all(is_number(shift[name], 0, 1) for name in ("changed", "largest"))
        is_sound = is_whole(shift["num_images"], 1, 10**9) and shares
    if not is_sound or not all(isinstance(each, TensorOutline) for each in tensors):
        return False
    if set(stored) == _EARLIER_INT8:
        return True
    ranges, means = stored["ranges"], stored["means"]
    are_floats = ranges.dtype == means.dtype == torch.float32
    return are_floats and ranges.shape == (*ranges.shape[:1], TENSORS, 2) and len(means.shape) == 1


def _is_part(stored: Any, kind: type) -> bool:
    """Return whether `stored` is a dict with exactly the fields of the dataclass `kind`, each within its range."""
    names = [each.name for each in fields(kind)]
    return isinstance(stored, dict) and set(stored) == set(names) and all(_PART_VALUES[n](stored[n]) for n in names)
