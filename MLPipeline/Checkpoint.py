"""`model.pt`: a trained classifier with its class names, architecture, preprocessing and weights.

The file contains plain types only, so that `torch.load(path, weights_only=True)` reads it without this package.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
from MLPipeline.files.TensorFile import load_file, save_file
from MLPipeline.Head import make_head
from MLPipeline.Models import build_model
from MLPipeline.scoring.Unknown import FeatureCenters, UnknownRule

FORMAT = 1
_MAX_IMAGE_SIZE = 4096  # like --image-size: an untrusted file must not exhaust the memory


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
    epoch: int = 0  # the best epoch, which the weights come from
    temperature: float = 1.0  # the divisor of the logits before the softmax
    fingerprint: FeatureCenters | None = None  # of the training images; None: none stored
    unknown: UnknownRule | None = None  # which answers are given; None: all
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are converted to the input of the model, except for their size."""
        return Preprocessing(self.fit, self.levels)


_TYPES: Mapping[str, Any] = {  # types of the entries of the file
    "model": str,
    "classes": list,
    "image_size": int,
    "weights": dict,
    "epoch": int,
    "temperature": (int, float),
    "metrics": dict,
    "versions": dict,
    "state_dict": dict,
}
_PARTS: Mapping[str, Any] = {"fingerprint": FeatureCenters, "unknown": UnknownRule}  # stored as dicts; may be absent
_PART_TYPES: Mapping[str, Any] = {
    "centers": Tensor,
    "max_distance": float,
    "target_precision": float,
    "min_confidence": float,
    "coverage": float,
    "precision": (float, type(None)),
    "precision_ci95": tuple,
}


def save_checkpoint(path: Path, model: Classifier, card: ModelCard) -> None:
    """Write `model` and its card to `path` atomically; the previous file is kept as `model.pt.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    described = asdict(card) | {"classes": list(card.classes), "versions": versions(), "format": FORMAT}
    described |= {"levels": None if card.levels is None else card.levels.to_plain()}
    described |= {"preprocessing": "RGB, resized (area when shrinking), uint8; scaled and normalised inside the model"}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(path, described | {"state_dict": state})


def load_checkpoint(path: Path) -> tuple[Classifier, ModelCard]:
    """Return the classifier stored in `path`, in eval mode on the CPU, and its card.

    Raises:
        DataError: the file is missing, damaged, unsafe, or not a checkpoint of this pipeline.
    """
    try:
        stored: Any = load_file(path)
        return _rebuild(path, stored)
    except DataError as error:
        previous = path.with_name(path.name + ".prev")
        if not previous.is_file():
            raise
        raise DataError(error.what, f"The previous checkpoint is kept: --run {previous}") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and torch."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _rebuild(path: Path, stored: Any) -> tuple[Classifier, ModelCard]:
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or not _is_described(stored):
        raise DataError(f"{path}: is not a checkpoint of this pipeline", "Give a run's model.pt")
    card = _read_card(stored)
    try:
        with within_memory(f"while the model of {path} was built", "Close other programs, or use a smaller model"):
            model = build_model(card.model, len(card.classes), card.image_size)
            model.head = make_head(model.head, card.hidden, card.dropout)
    except UsageError as error:
        raise DataError(f"{path}: {error.what}", "Train it again, or use the code it was trained with") from error
    try:
        model.load_state_dict(stored["state_dict"])
    except (RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        difference = str(error).splitlines()[-1].strip()[:200]  # torch lists all differences, one per line
        raise DataError(
            f"{path}: its tensors do not fit {card.model}: {difference}", "Give a run's model.pt"
        ) from error
    return model.eval(), card


def _read_card(stored: Mapping[str, Any]) -> ModelCard:
    """Return the card; files of earlier versions may lack a fingerprint, a rule for `unknown`, levels or a fit."""
    values = {each.name: stored[each.name] for each in fields(ModelCard) if each.name in stored}
    for name, kind in _PARTS.items():
        values[name] = None if values.get(name) is None else kind(**values[name])
    levels = None if values.get("levels") is None else Levels.from_plain(values["levels"])
    return ModelCard(**values | {"classes": tuple(stored["classes"]), "levels": levels})


def _is_described(stored: Mapping[str, Any]) -> bool:
    """Return whether the card is complete and valid: an untrusted file may contain anything."""
    return (
        all(isinstance(stored.get(name), kind) for name, kind in _TYPES.items())
        and all(isinstance(name, str) for name in stored["classes"])
        and len(set(stored["classes"])) == len(stored["classes"]) > 0
        and 0 < stored["image_size"] <= _MAX_IMAGE_SIZE
        and stored["temperature"] > 0
        and isinstance(stored.get("hidden"), (int, type(None)))
        and isinstance(stored.get("dropout"), (int, float, type(None)))
        and stored.get("fit", STRETCH) in FITS
        and (stored.get("levels") is None or are_levels(stored["levels"]))
        and all(_is_part(stored.get(name), kind) for name, kind in _PARTS.items())
        and (not stored.get("fingerprint") or stored["fingerprint"]["centers"].shape[:-1] == (len(stored["classes"]),))
    )


def _is_part(stored: Any, kind: type) -> bool:
    """Return whether `stored` is None, or a dict with exactly the fields of the dataclass `kind`."""
    names = [each.name for each in fields(kind)]
    return stored is None or (
        isinstance(stored, dict)
        and set(stored) == set(names)
        and all(isinstance(stored[name], _PART_TYPES[name]) for name in names)
    )
