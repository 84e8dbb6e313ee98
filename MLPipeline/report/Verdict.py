"""The sentences at the top of a report: what the accuracy means, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from MLPipeline.Augment import make_augmentation
from MLPipeline.Config import Config
from MLPipeline.report.Page import count, percent
from MLPipeline.training.TrainState import EpochRecord

WIDE_INTERVAL = 0.2
OVERFITTED = 0.1  # training accuracy minus validation accuracy
MISCALIBRATED = 0.1
MAX_ADVICE = 4
AUGMENTATION = "--augment crop,jitter"  # no mirroring: it may exchange classes


def verdict(scores: Mapping[str, Any] | None, baseline: float | None) -> str:
    """Return one sentence on how good an accuracy is; `scores` has `n`, `accuracy`, `accuracy_ci95`."""
    if scores is None:
        return "There are no validation or test images, so the accuracy is not known."
    low, high = scores["accuracy_ci95"]
    majority = "" if baseline is None else f"the majority-class baseline ({percent(baseline)})"
    if majority and low <= (baseline or 0):
        return f"Not significantly better than {majority}."
    if high - low > WIDE_INTERVAL:
        start = f"Better than {majority}, but with" if majority else "With"
        few = f"{start} only {count(scores['n'], 'image')} the accuracy is uncertain"
        return f"{few}: the 95 % interval is {percent(low, 0)} to {percent(high, 0)}."
    if majority:
        return f"Significantly better than {majority}."
    return f"The accuracy is known to within {percent((high - low) / 2)}."


@dataclass(frozen=True)
class Advice:
    """A sentence on what to try next, and the flags that do it."""

    text: str
    flags: str = ""


def advice(
    scores: Mapping[str, Any] | None, history: Sequence[EpochRecord], config: Config, num_skipped: int
) -> list[Advice]:
    """Return up to four suggestions on what to do next, the most useful first.

    Args:
        scores: the metrics of the evaluated split, as `Metrics.evaluate` returns them; None if there are none.
        history: the epochs that were trained.
        config: the settings of the run.
        num_skipped: files that were not used.
    """
    found = []
    if scores and scores.get("weakest_class_taken_for"):
        found.append(_on_the_weakest(scores))
    best = next((record for record in reversed(history) if record.is_best), None)
    if best and best.epoch == config.epochs > 1 and not config.swa:  # an average is usually best at its end
        text = "The last epoch had the lowest validation loss. Train for longer:"
        found.append(Advice(text, f"--epochs {2 * config.epochs}"))
    if best and best.train_accuracy - best.val_accuracy > OVERFITTED:  # NaN without validation images: no
        text = (
            f"The model overfits: {percent(best.train_accuracy)} accuracy on training images, "
            f"{percent(best.val_accuracy)} on validation images. Add images"
        )
        is_augmented = bool(make_augmentation(config.augment))
        found.append(Advice(f"{text}.") if is_augmented else Advice(f"{text}, or use augmentation:", AUGMENTATION))
    if scores and (scores.get("ece") or 0) > MISCALIBRATED:
        text = (
            f"The confidence differs from the accuracy by {percent(scores['ece'], 0)} on average (expected calibration "
            "error): do not use it as a probability."
        )
        found.append(Advice(text))
    if num_skipped:
        found.append(Advice(f"{count(num_skipped, 'file')} could not be read or used; see Data below."))
    return found[:MAX_ADVICE]


def _on_the_weakest(scores: Mapping[str, Any]) -> Advice:
    names = list(scores["per_class"])
    weakest, confused_with = scores["weakest_class"], scores["weakest_class_taken_for"]
    number = scores["confusion_matrix"][names.index(weakest)][names.index(confused_with)]
    support = scores["per_class"][weakest]["support"]
    return Advice(
        f"Look at the {number:,} of {count(support, 'image')} of “{weakest}” that {'is' if number == 1 else 'are'} "
        f"classified as “{confused_with}”: check the labels, and add similar images to the training data."
    )
