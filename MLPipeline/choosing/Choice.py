"""The result of comparing backbones, and the rule by which one is chosen.

The interval of a difference is that for paired proportions, since all backbones are tested on the same images
(Newcombe, Statistics in Medicine 17, 1998; see `scoring/Intervals`). It is widened because the heads of several folds
share most of their images (Nadeau and Bengio, Machine Learning 52, 2003; see `scoring/Intervals`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MLPipeline.choosing.Backbones import Backbone
from MLPipeline.choosing.Prober import NUM_FOLDS, Cost, Tested
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.files.CsvFile import write_rows
from MLPipeline.files.Json import dump_json, read_json
from MLPipeline.scoring.Intervals import over_folds, paired_interval

# How much accuracy a faster backbone may cost. Not as much as the interval alone would allow: on 10 draws of 20 images
# of each of 10 classes of clothing, Lite2 was more accurate out of fold than Lite0, and in the test, in all 10. The
# difference was significant in one, so a choice by significance would have lost 3.2 points on average.
MARGIN = 0.005
RULE = (
    f"the fastest backbone that is at most {100 * MARGIN:g} points less accurate than the best, and not significantly "
    "so (the 95 % interval of the difference reaches 0)"
)
CHOICE_FILE, CHOICE_TABLE, CHOICE_PAGE = "choice.json", "choice.csv", "choice.html"


@dataclass(frozen=True)
class Difference:
    """How much more accurate a backbone is than the best one, on the same images."""

    value: float  # negative: less accurate
    low: float  # of its 95 % interval
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the backbone is less accurate according to the interval."""
        return self.high < 0

    @property
    def counts(self) -> bool:
        """Whether the backbone is too much less accurate to be chosen for its speed."""
        return self.is_significant or round(self.value, 9) < -MARGIN


@dataclass(frozen=True)
class Result:
    """A backbone that was tested."""

    backbone: Backbone
    cost: Cost
    num_images: int  # in the sample that it was last tested on
    num_tested: int  # of them
    accuracy: float  # out of fold
    difference: Difference | None  # from the best on the same images; None for the best itself
    is_finalist: bool  # whether it was tested on as many images as the best; only then it may be chosen


@dataclass(frozen=True)
class LeftOut:
    """A backbone that was not tested."""

    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What was compared, and what was chosen."""

    results: tuple[Result, ...]  # the best first
    chosen: Result
    left_out: tuple[LeftOut, ...]
    num_images: int  # training images
    minutes: float  # given
    seconds: float  # used

    @property
    def best(self) -> Result:
        """The backbone with the highest accuracy."""
        return self.results[0]

    @property
    def reason(self) -> str:
        """Why the backbone was chosen, in one sentence without its name."""
        best, chosen = self.best, self.chosen
        if chosen is not best:
            assert chosen.difference is not None
            times = best.cost.seconds_per_image / chosen.cost.seconds_per_image
            figures = _compared(chosen.difference, chosen, best)
            near = f"within {100 * MARGIN:g} points of {best.backbone.to_text()} ({figures})"
            return f"{near}, which takes {times:.1f} times as long"
        cheaper = [each for each in self.results if each.is_finalist and _price(each) < _price(best)]
        if cheaper:
            other, difference = cheaper[0], cheaper[0].difference
            how = "significantly " if difference and difference.is_significant else ""
            return (
                f"{how}more accurate than {other.backbone.to_text()} ({_compared(_reverse(difference), best, other)})"
            )
        if len(self.results) == 1:
            return "the only one that was tested"
        return "the most accurate, and no other that was tested on as many images is cheaper"

    def to_plain(self) -> dict[str, Any]:
        """Return the content of `choice.json`."""
        return {
            "chosen": dataclasses.asdict(self.chosen.backbone),
            "reason": self.reason,
            "rule": RULE,
            "folds": NUM_FOLDS,
            "training_images": self.num_images,
            "minutes": self.minutes,
            "seconds": round(self.seconds, 1),
            "backbones": [_plain(each) for each in self.results],
            "left_out": [dataclasses.asdict(each) for each in self.left_out],
        }


def difference_of(other: Tested, best: Tested) -> Difference:
    """Return the difference in accuracy of `other` from `best`, on the images on which both were tested."""
    both_tested = (other.outcomes >= 0) & (best.outcomes >= 0)
    theirs, ours = (each.outcomes[both_tested] == 1 for each in (best, other))
    counts = (theirs & ours, theirs & ~ours, ~theirs & ours, ~theirs & ~ours)
    low, high = paired_interval(*(int(each.sum()) for each in counts))
    value = float(ours.mean() - theirs.mean())
    return Difference(value, *over_folds(value, (low, high), NUM_FOLDS))


def choose_result(results: Sequence[Result]) -> Result:
    """Return the one of `results`, of which the first is the best, that `RULE` chooses."""
    good = [each for each in results if each.is_finalist and not (each.difference and each.difference.counts)]
    return min(good, key=_price)


def difference_text(difference: Difference) -> str:
    """Return `-1.2 points, 95 % interval -2.5 to +0.1`."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.value:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"


def _compared(difference: Difference | None, chosen: Result, other: Result) -> str:
    """Return `89.9 instead of 86.2 %, difference +3.7 points, 95 % interval +2.5 to +4.9`, of the chosen one first."""
    assert difference is not None
    figures = f"{100 * chosen.accuracy:.1f} instead of {100 * other.accuracy:.1f} %"
    return f"{figures}, difference {difference_text(difference)}"


def _reverse(difference: Difference | None) -> Difference | None:
    return difference and Difference(-difference.value, -difference.high, -difference.low)


def _price(result: Result) -> float:
    return result.cost.seconds_per_image


def write_tables(choice: Choice, folder: Path) -> None:
    """Write `choice.json` and `choice.csv`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    rows = [_plain(each) for each in choice.results]
    write_rows(folder / CHOICE_TABLE, rows[0], (each.values() for each in rows))
    write_text(folder / CHOICE_FILE, dump_json(choice.to_plain(), indent=2) + "\n")


def read_choice(folder: Path) -> Mapping[str, Any] | None:
    """Return the content of `choice.json` of a run; None if the user has named the model, or the file is damaged."""
    try:
        content = read_json(folder / CHOICE_FILE)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _plain(result: Result) -> dict[str, Any]:
    """Return a row of the table."""
    difference = result.difference
    return {
        "model": result.backbone.model,
        "image_size": result.backbone.image_size,
        "weights": result.backbone.weights,
        "accuracy": round(result.accuracy, 5),
        "difference": 0.0 if difference is None else round(difference.value, 5),
        "difference_low": None if difference is None else round(difference.low, 5),
        "difference_high": None if difference is None else round(difference.high, 5),
        "seconds_per_image": round(result.cost.seconds_per_image, 6),
        "megabytes": round(result.cost.megabytes, 1),
        "images": result.num_images,
        "tested": result.num_tested,
        "is_finalist": result.is_finalist,
    }
