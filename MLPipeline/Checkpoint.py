"""`model.pt`: a trained classifier and all that using it takes: classes by name, architecture, preprocessing, weights.

Plain types only, so that `torch.load(path, weights_only=True)` reads it in a bare torch.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Errors import DataError, PipelineError
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.SafeLoad import load_file
from MLPipeline.Models import build_model

FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of its model, besides the tensors."""

    model: str
    classes: tuple[str, ...]  # by position of the logit; always matched by name
    image_size: int  # images are resized to this square, without keeping their proportions
    weights: Mapping[str, str]  # kind, source, sha256 of what training started from
    epoch: int = 0  # the best epoch, whose weights these are
    temperature: float = 1.0  # logits are divided by it before the softmax
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def save_checkpoint(path: Path, model: Classifier, card: ModelCard) -> None:
    """Write `model` and its card to `path`, whole or not at all; the file before stays as `model.pt.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    described = asdict(card) | {"classes": list(card.classes), "versions": versions(), "format": FORMAT}
    described |= {"preprocessing": "RGB, resized (area when shrinking), uint8; scaled and normalised inside the model"}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_file(path, lambda file: torch.save(described | {"state_dict": state}, file), keep_previous=True)


def load_checkpoint(path: Path) -> tuple[Classifier, ModelCard]:
    """Return the classifier stored in `path`, in eval mode on the CPU, and its card.

    Raises:
        DataError: the file is missing, damaged, unsafe, or no checkpoint of ours.
    """
    try:
        stored: Any = load_file(path)
        return _rebuild(path, stored)
    except PipelineError as error:
        previous = path.with_name(path.name + ".prev")
        if not previous.is_file():
            raise
        raise DataError(error.what, f"The one before it is kept: --run {previous}") from error


def versions() -> dict[str, str]:
    """Return the versions of what computes: Python, torch."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def _rebuild(path: Path, stored: Any) -> tuple[Classifier, ModelCard]:
    names = set(ModelCard.__dataclass_fields__)
    if not isinstance(stored, dict) or not names <= stored.keys() or stored.get("format") != FORMAT:
        raise DataError(f"{path}: is not a checkpoint of this pipeline", "Give a run's model.pt")
    card = ModelCard(**{name: stored[name] for name in names} | {"classes": tuple(stored["classes"])})
    model = build_model(card.model, len(card.classes), card.image_size)
    try:
        model.load_state_dict(stored["state_dict"])
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"{path}: its tensors do not fit {card.model}", "Give a run's model.pt") from error
    return model.eval(), card
