"""Compares an exported model with `predict`: the script beside it, in a process of its own, on real images.

N images, C classes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.Errors import GateMissedError
from MLPipeline.Predict import ImageClassifier

TOLERANCE = 1e-3  # largest difference of a probability
_MAX_WITHHELD_DIFFERENTLY = 0.01  # share of the images: those that lie at the threshold
_SHOWN = 300


@dataclass(frozen=True)
class Parity:
    """How the answers of two ways to compute a model differ on the same images."""

    num_images: int
    num_refused: int  # that `predict` reads and the script does not
    max_difference: float  # of a probability
    num_other_class: int  # images with another most probable class, ties aside
    num_other_withheld: int  # images whose answer only one of the two withholds

    @property
    def is_equal(self) -> bool:
        """Whether both can be called the same model."""
        allowed = max(1, _MAX_WITHHELD_DIFFERENTLY * self.num_images)
        return self.max_difference <= TOLERANCE and not self.num_other_class and self.num_other_withheld <= allowed

    def to_text(self, kind: str = "images") -> str:
        """Return `same answers on 200 test images, probabilities within 1e-05`; `kind` says which images."""
        same = self.num_images - self.num_other_class
        answers = "same answers on" if same == self.num_images else f"same answer on {same} of"
        extra = f"; {self.num_other_withheld} withheld by one of the two only" if self.num_other_withheld else ""
        return f"{answers} {self.num_images} {kind}, probabilities within {self.max_difference:.1g}{extra}"


@dataclass(frozen=True)
class Answers:
    """The answers for N images, as far as they are compared."""

    probabilities: dict[str, np.ndarray]  # path -> (C,) float64
    is_withheld: dict[str, bool]


def compare(reference: Answers, other: Answers) -> Parity:
    """Return how `other` differs from `reference` on the images that both have answered."""
    paths = [path for path in reference.probabilities if path in other.probabilities]
    num_other, largest = 0, 0.0
    for path in paths:
        first, second = reference.probabilities[path], other.probabilities[path]
        largest = max(largest, float(np.abs(first - second).max()))
        is_tie = first.max() - first[second.argmax()] <= 2 * TOLERANCE
        num_other += bool(first.argmax() != second.argmax() and not is_tie)
    num_withheld = sum(reference.is_withheld[path] != other.is_withheld[path] for path in paths)
    return Parity(len(paths), len(reference.probabilities) - len(paths), largest, num_other, num_withheld)


def answers_of_predict(
    model: Classifier, card: ModelCard, files: Sequence[Path], precision: str, workers: int | None = None
) -> Answers:
    """Return the answers of `predict` at a precision; unreadable files have none."""
    answers = ImageClassifier(model, card, precision).stream(files, len(card.classes), workers)
    found = [each for each in answers if not each.reason]
    places = {name: place for place, name in enumerate(card.classes)}
    return Answers(
        {str(each.path): _in_order(each.top, places) for each in found}, {str(a.path): a.is_withheld for a in found}
    )


def answers_of_script(script: Path, card: ModelCard, files: Sequence[Path]) -> Answers:
    """Return the answers that the exported script prints, run by Python in isolation; refused files have none.

    Raises:
        GateMissedError: the script fails.
    """
    names = b"".join(os.fsencode(path) + b"\n" for path in files)
    command = [sys.executable, "-I", str(script), "--json", "--topk", str(len(card.classes)), "-"]
    done = subprocess.run(command, input=names, capture_output=True, check=False)
    if done.returncode:
        message = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:_SHOWN]
        raise GateMissedError(f"{script.name} fails on the exported model: {message}", "Nothing was exported")
    places = {name: place for place, name in enumerate(card.classes)}
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    tops = {row["path"]: [(each["class"], each["confidence"]) for each in row["top"]] for row in rows}
    return Answers(
        {path: _in_order(top, places) for path, top in tops.items()},
        {row["path"]: not row["answered"] for row in rows},
    )


def require_equal(parity: Parity, what: str) -> None:
    """Check that an export may be kept.

    Raises:
        GateMissedError: it answers differently, or no image could be compared.
    """
    if parity.num_images and parity.is_equal:
        return
    found = parity.to_text() if parity.num_images else "the script could read none of the images"
    hint = f"Nothing was exported; {TOLERANCE} is the largest difference allowed. Try another --format"
    raise GateMissedError(f"{what} differs from predict: {found}", hint)


def _in_order(top: Sequence[tuple[str, float]], places: dict[str, int]) -> np.ndarray:
    """Return the probabilities (C,) in the order of the classes."""
    probabilities = np.zeros(len(places))
    for name, probability in top:
        probabilities[places[name]] = probability
    return probabilities
