"""What the stored features say about the labels, kept in the cache: unchanged images and labels are evaluated once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from MLPipeline.files.Json import dump_json, parse_json

FORMAT = 3  # incremented whenever the content of a judgement, or the way it is computed, changes


@dataclass(frozen=True)
class Suspects:
    """Images whose labels look wrong, the most suspicious first; all arrays are (M,)."""

    positions: np.ndarray  # of the images, among those evaluated
    suggested: np.ndarray  # predicted label
    confidence: np.ndarray  # probability of that label, 0 to 1
    accuracy: float  # share of all images whose label is predicted by a head that was not fitted on them

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Forecast:
    """An accuracy or recall now, and as expected with twice as many images; shares from 0 to 1."""

    now: float
    then: float
    interval: tuple[float, float]  # 95 %

    @property
    def gain(self) -> float:
        """The expected increase."""
        return self.then - self.now


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy as a function of the number of training images, and the forecast for twice as many."""

    num_images: np.ndarray  # (S,) ascending
    accuracy: np.ndarray  # (S,) mean over the repeats
    interval: np.ndarray  # (2, S) 95 %
    overall: Forecast  # accuracy
    per_class: dict[int, Forecast]  # recall by label, the largest gain first


@dataclass(frozen=True)
class Judgement:
    """Which labels look wrong, and whether more images would help; None if it could not be determined."""

    suspects: Suspects | None
    curve: LearningCurve | None


def encode_judgement(judgement: Judgement) -> bytes:
    """Return `judgement` as a result to keep."""
    return dump_json(asdict(judgement), default=np.ndarray.tolist).encode()


def decode_judgement(stored: bytes) -> Judgement:
    """Return what `encode_judgement` was given."""
    content = parse_json(stored)
    return Judgement(_suspects(content["suspects"]), _curve(content["curve"]))


def _suspects(stored: dict[str, Any] | None) -> Suspects | None:
    if stored is None:
        return None
    arrays = {name: np.array(stored[name]) for name in ("positions", "suggested", "confidence")}
    return Suspects(**arrays, accuracy=stored["accuracy"])


def _curve(stored: dict[str, Any] | None) -> LearningCurve | None:
    if stored is None:
        return None
    arrays = {name: np.array(stored[name]) for name in ("num_images", "accuracy", "interval")}
    per_class = {int(label): Forecast(**each) for label, each in stored["per_class"].items()}
    return LearningCurve(**arrays, overall=Forecast(**stored["overall"]), per_class=per_class)
