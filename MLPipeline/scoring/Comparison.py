"""Tests whether one of two runs, evaluated on the same images, is significantly better; lists where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from MLPipeline.Errors import DataError
from MLPipeline.files.PlainFile import open_regular
from MLPipeline.files.RunFolder import Run
from MLPipeline.scoring.Intervals import mcnemar_p_value, paired_interval, wilson_interval

_COLUMNS = ["path", "split", "true", "predicted", "confidence"]  # of predictions.csv
_SPLITS = ("test", "val")  # the first one that both runs have is compared
_SIGNIFICANCE = 0.05  # level: with this p-value or a larger one, a difference may be due to chance


@dataclass(frozen=True)
class Flip:
    """An image that only one of the two runs classifies correctly."""

    path: str  # relative to the data folder
    true: str
    predicted: tuple[str, str]  # by the first and by the second run
    confidence: tuple[float, float]

    @property
    def is_won(self) -> bool:
        """Whether the second run is the one that is correct."""
        return self.predicted[1] == self.true


@dataclass(frozen=True)
class Comparison:
    """How two runs differ on the same images: everything that the console and the page show."""

    names: tuple[str, str]
    split: str  # test, or val if there are no test images
    both: int  # number of images that both classify correctly
    only_first: int
    only_second: int
    neither: int
    flips: tuple[Flip, ...]  # images that only one of them classifies correctly, by falling confidence

    @property
    def num_images(self) -> int:
        """The number of images that both runs were evaluated on."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def num_right(self) -> tuple[int, int]:
        """The number of images that each run classifies correctly."""
        return self.both + self.only_first, self.both + self.only_second

    @property
    def accuracies(self) -> tuple[float, float]:
        """The accuracy of each run."""
        first, second = self.num_right
        return first / self.num_images, second / self.num_images

    @property
    def intervals(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The 95 % interval of each accuracy. Runs with overlapping intervals may still differ significantly."""
        first, second = (wilson_interval(number, self.num_images) for number in self.num_right)
        return first, second

    @property
    def difference(self) -> float:
        """Accuracy of the second run minus that of the first."""
        return (self.only_second - self.only_first) / self.num_images

    @property
    def difference_ci95(self) -> tuple[float, float]:
        """The 95 % interval of the difference, for paired samples (see `paired_interval`)."""
        return paired_interval(self.both, self.only_first, self.only_second, self.neither)

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's exact test: the probability that equally good models differ at least this much."""
        return mcnemar_p_value(self.only_first, self.only_second)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.only_first + self.only_second:
            return "both classify the same images correctly"
        if self.p_value >= _SIGNIFICANCE:
            return "the difference may be due to chance: more test images are needed to decide"
        return f"{self.names[self.difference > 0]} is better"


def compare(first: Run, second: Run) -> Comparison:
    """Return how two runs compare on their test images, or on their validation images if not both have test images.

    Raises:
        DataError: a run's predictions are missing, or the two were not evaluated on the same images.
    """
    tables = [_read_predictions(run) for run in (first, second)]
    split = next((each for each in _SPLITS if all((table["split"] == each).any() for table in tables)), None)
    if split is None:
        raise DataError(f"{first.path} and {second.path}: no test or validation images in both", _hint(second))
    pairs = _pair_up(first, second, split, *(table[table["split"] == split] for table in tables))
    right, other_right = pairs["predicted"] == pairs["true"], pairs["predicted_2"] == pairs["true"]
    flips = [
        Flip(row.path, row.true, (row.predicted, row.predicted_2), (float(row.confidence), float(row.confidence_2)))
        for row in list[Any](pairs[right != other_right].itertuples())
    ]
    return Comparison(
        names=(first.path.name, second.path.name),
        split=split,
        both=int((right & other_right).sum()),
        only_first=int((right & ~other_right).sum()),
        only_second=int((other_right & ~right).sum()),
        neither=int((~right & ~other_right).sum()),
        flips=tuple(sorted(flips, key=lambda flip: -sum(flip.confidence))),
    )


def _read_predictions(run: Run) -> pd.DataFrame:
    path = run.path / "predictions.csv"
    try:  # everything as text: a class may be called `NA` or `7`
        with open_regular(path) as file:
            rows = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=_COLUMNS)
        rows["confidence"] = rows["confidence"].astype(float)
        if not rows["confidence"].between(0, 1).all():
            raise ValueError("a confidence that is not between 0 and 1")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:100]
        raise DataError(f"{path}: cannot be read as a table of predictions ({reason})", _hint(run)) from error
    for column in ("path", "true", "predicted"):  # accents may be composed characters in one run and not in the other
        rows[column] = rows[column].str.normalize("NFC")
    return rows.drop_duplicates("path")


def _pair_up(first: Run, second: Run, split: str, one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return one row per image; the predictions of the second run are in columns that end in `_2`."""
    pairs = one.merge(other, on="path", how="outer", suffixes=("", "_2"), indicator=True)
    in_both = pairs["_merge"] == "both"
    num_alone, num_other_class = int((~in_both).sum()), int((in_both & (pairs["true"] != pairs["true_2"])).sum())
    if num_alone or num_other_class:
        what = f"{second.path}: was not evaluated on the images of {first.path}"
        counts = f"{num_alone} of {len(pairs)} {split} images are in one of them only, {num_other_class} changed class"
        raise DataError(f"{what}: {counts}", _hint(second))
    return pairs


def _hint(run: Run) -> str:
    return f"Score each on the same folder: python Engine.py evaluate --run {run.path} --data FOLDER"
