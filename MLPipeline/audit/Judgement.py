"""What stored features say of the labels, kept in the cache: the same images under the same labels are judged once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.files.AtomicFile import write_text

_FORMAT = 2  # goes up with every change of what a judgement holds, or of how it is made


@dataclass(frozen=True)
class Suspects:
    """The labels that look wrong, the most suspicious first; all arrays are (M,)."""

    positions: np.ndarray  # of the images, among those judged
    suggested: np.ndarray  # label each is taken for
    confidence: np.ndarray  # probability of that label, 0 to 1
    accuracy: float  # share of all images whose labels agree with a head that has not seen them

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Forecast:
    """What twice as many images would come to; shares from 0 to 1."""

    now: float
    then: float
    interval: tuple[float, float]  # 95 %

    @property
    def gain(self) -> float:
        """By how much the share would rise."""
        return self.then - self.now


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy over the number of images learnt from, and what twice as many would bring."""

    num_images: np.ndarray  # (S,) ascending
    accuracy: np.ndarray  # (S,) mean over the repeats
    interval: np.ndarray  # (2, S) 95 %
    overall: Forecast  # accuracy
    per_class: dict[int, Forecast]  # recall by label, the most to gain first


@dataclass(frozen=True)
class Judgement:
    """What the features say: which labels look wrong, and whether more images would help; None: not to be said."""

    suspects: Suspects | None
    curve: LearningCurve | None


def judgement_file(cache: Path, about: str, *arrays: np.ndarray) -> Path:
    """Return where a judgement is kept that depends on `about` (network, seed) and `arrays` (contents, labels)."""
    state = hashlib.blake2b(f"{_FORMAT} {about}".encode(), digest_size=12)
    for array in arrays:
        state.update(f"{array.shape} {array.dtype.str}".encode() + array.tobytes())
    return cache / "judgements" / f"{state.hexdigest()}.json"


def write_judgement(file: Path, judgement: Judgement) -> None:
    """Keep `judgement` for the next time.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(file, json.dumps(asdict(judgement), default=np.ndarray.tolist))


def read_judgement(file: Path) -> Judgement | None:
    """Return the judgement kept in `file`, None if there is none that is whole."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return Judgement(_suspects(stored["suspects"]), _curve(stored["curve"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
