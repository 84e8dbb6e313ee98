"""The sentences a report opens with: what the figures mean, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from MLPipeline.report.Page import count, percent
from MLPipeline.training.TrainState import EpochRecord

WIDE_INTERVAL = 0.2
OVERFITTED = 0.1  # training accuracy above validation accuracy
MISCALIBRATED = 0.1
MAX_ADVICE = 4


def verdict(scores: Mapping[str, Any] | None, baseline: float | None) -> str:
    """Return one sentence on what an accuracy is worth; `scores` has `n`, `accuracy`, `accuracy_ci95`."""
    if scores is None:
        return "No validation or test images: nothing says how good this model is."
    low, high = scores["accuracy_ci95"]
    blind = "" if baseline is None else f"always answering the largest class ({percent(baseline)})"
    if blind and low <= (baseline or 0):
        return f"Not shown to be better than {blind}."
    if high - low > WIDE_INTERVAL:
        better = f"Better than {blind}, but from " if blind else "From "
        few = f"{count(scores['n'], 'image')} nobody can tell by how much" if blind else count(scores["n"], "image")
        return f"{better}{few}: anything from {percent(low, 0)} to {percent(high, 0)} is possible."
    return f"Clearly better than {blind}." if blind else f"Known to within {percent((high - low) / 2)}."


@dataclass(frozen=True)
class Advice:
    """A sentence on what to try next, and the flags that do it."""

    text: str
    flags: str = ""


def advice(
    scores: Mapping[str, Any] | None, history: Sequence[EpochRecord], epochs: int, from_scratch: bool, num_skipped: int
) -> list[Advice]:
    """Return what the figures suggest to do next, the most useful first, at most four sentences.

    Args:
        scores: the metrics of the judged split, as `Evaluate.evaluate` gives them; None if there are none.
        history: the epochs that were trained.
        epochs: how many were asked for.
        from_scratch: the model began with random weights.
        num_skipped: files that were not used.
    """
    found = []
    if from_scratch:
        text = (
            "From random weights a network needs many more images. Begin with ImageNet weights, which this one brings"
        )
        found.append(Advice(f"{text}:", "--model efficientnet_lite0"))
    if scores and scores.get("weakest_class_taken_for"):
        found.append(_on_the_weakest(scores))
    best = next((record for record in reversed(history) if record.is_best), None)
    if best and best.epoch == epochs > 1:
        found.append(Advice("The last epoch was the best one: more may be better still.", f"--epochs {2 * epochs}"))
    if best and best.train_accuracy - best.val_accuracy > OVERFITTED:  # NaN without validation images: no
        text = (
            f"It knows its training images better ({percent(best.train_accuracy)}) than new ones "
            f"({percent(best.val_accuracy)}): more images help, or changed copies of those there are."
        )
        found.append(Advice(text, "--augment rotate,hflip,jitter"))
    if scores and (scores.get("ece") or 0) > MISCALIBRATED:
        text = f"Its confidence is off by {percent(scores['ece'], 0)} on average: do not read it as a chance."
        found.append(Advice(text))
    if num_skipped:
        found.append(Advice(f"{count(num_skipped, 'file')} could not be used; see Data below."))
    return found[:MAX_ADVICE]


def measures(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of the figures on confidence and ranking that are defined."""
    told = [
        ("Calibration error", "ece", percent, "how far confidence is from the share of right answers"),
        ("Before temperature scaling", "ece_unscaled", percent, "the calibration error of the bare network"),
        ("Temperature", "temperature", "{:.2f}".format, "above 1: it was too sure of itself; below: not sure enough"),
        ("Brier score", "brier", "{:.3f}".format, "squared distance from the truth: 0 is best, 2 worst"),
        (
            "AUROC",
            "auroc",
            "{:.3f}".format,
            "how surely images of a class rank before others: 0.5 is chance, 1 best",
        ),
        ("Among the five likeliest", "top5_accuracy", percent, "the true class is one of them"),
    ]
    if scores.get("temperature") == 1.0:  # nothing was scaled
        told = [row for row in told if row[1] not in ("ece_unscaled", "temperature")]
    return [(name, form(scores[key]), text) for name, key, form, text in told if scores.get(key) is not None]


def _on_the_weakest(scores: Mapping[str, Any]) -> Advice:
    names = list(scores["per_class"])
    weakest, taken_for = scores["weakest_class"], scores["weakest_class_taken_for"]
    number = scores["confusion_matrix"][names.index(weakest)][names.index(taken_for)]
    support = scores["per_class"][weakest]["support"]
    return Advice(
        f"Look at the {number:,} of {count(support, 'image')} of “{weakest}” taken for “{taken_for}” below: "
        "are they labelled right, and are there enough of their kind to learn from?"
    )
