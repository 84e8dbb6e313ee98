"""Tests whether one of two runs, evaluated on the same images, is significantly better; lists where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from MLPipeline.Errors import DataError
from MLPipeline.files.PlainFile import open_regular
from MLPipeline.files.PlainValues import is_whole
from MLPipeline.files.RunFolder import Run
from MLPipeline.scoring.Intervals import mcnemar_p_value, over_folds, paired_interval, wilson_interval

_COLUMNS = ["path", "split", "true", "predicted", "confidence"]  # of predictions.csv
_CONTENTS = ["path", "digest"]  # of splits.csv
_SPLITS = ("test", "val")  # the first one that both runs have is compared
_MAX_FOLDS = 100  # as for `--folds`
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
    split: str  # test, or val if there are no test images; cross-validated
    both: int  # number of images that both classify correctly
    only_first: int
    only_second: int
    neither: int
    flips: tuple[Flip, ...]  # images that only one of them classifies correctly, by falling confidence
    num_folds: tuple[int, int] = (1, 1)  # that each run was tested in; 1 without cross-validation

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
        plain = (wilson_interval(number, self.num_images) for number in self.num_right)
        low_high = (over_folds(*each) for each in zip(self.accuracies, plain, self.num_folds, strict=True))
        first, second = ((max(0.0, low), min(1.0, high)) for low, high in low_high)
        return first, second

    @property
    def difference(self) -> float:
        """Accuracy of the second run minus that of the first."""
        return (self.only_second - self.only_first) / self.num_images

    @property
    def difference_ci95(self) -> tuple[float, float]:
        """The 95 % interval of the difference, for paired samples (see `paired_interval`), widened for folds."""
        plain = paired_interval(self.both, self.only_first, self.only_second, self.neither)
        return over_folds(self.difference, plain, max(self.num_folds))

    @property
    def is_folded(self) -> bool:
        """Whether a run was cross-validated: its predictions are not independent, as McNemar's test requires."""
        return max(self.num_folds) > 1

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's exact test: the probability that equally good models differ at least this much."""
        return mcnemar_p_value(self.only_first, self.only_second)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if not self.only_first + self.only_second:
            return "both classify the same images correctly"
        low, high = self.difference_ci95
        if self.p_value >= _SIGNIFICANCE or (self.is_folded and low <= 0 <= high):
            return "the difference may be due to chance: more test images are needed to decide"
        return f"{self.names[self.difference > 0]} is better"

    @property
    def evidence(self) -> str:
        """What the verdict rests on."""
        if self.is_folded:
            return "the 95 % interval, widened as the folds share images"
        return f"McNemar's test: p = {self.p_value:.2g}"


def compare(first: Run, second: Run) -> Comparison:
    """Return how two runs compare on their test images, or on their validation images if not both have test images.

    Raises:
        DataError: a run's predictions are missing, or the two were not evaluated on the same images.
    """
    tables = [_read_predictions(run).merge(_read_contents(run), on="path", how="left") for run in (first, second)]
    split = next((each for each in _SPLITS if all((table["split"] == each).any() for table in tables)), None)
    if split is None:
        raise DataError(f"{first.path} and {second.path}: no test or validation images in both", _hint(second))
    pairs = _pair_up(first, second, split, *(table[table["split"] == split] for table in tables))
    right, other_right = pairs["predicted"] == pairs["true"], pairs["predicted_2"] == pairs["true"]
    flips = [
        Flip(row.path, row.true, (row.predicted, row.predicted_2), (float(row.confidence), float(row.confidence_2)))
        for row in list[Any](pairs[right != other_right].itertuples())
    ]
    num_folds = (_num_folds(first), _num_folds(second)) if split == "test" else (1, 1)
    return Comparison(
        names=(first.path.name, second.path.name),
        split=split if num_folds == (1, 1) else "cross-validated",
        both=int((right & other_right).sum()),
        only_first=int((right & ~other_right).sum()),
        only_second=int((other_right & ~right).sum()),
        neither=int((~right & ~other_right).sum()),
        flips=tuple(sorted(flips, key=lambda flip: -sum(flip.confidence))),
        num_folds=num_folds,
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
    return rows.drop_duplicates(["split", "path"])  # folds also test the validation images


def _num_folds(run: Run) -> int:
    """Return in how many folds the test images of `run` were predicted; 1 without `--folds`."""
    folds = run.metrics.get("folds")
    number: Any = folds.get("number") if isinstance(folds, Mapping) else None
    return number if is_whole(number, 1, _MAX_FOLDS) else 1


def _read_contents(run: Run) -> pd.DataFrame:
    """Return path and digest of each file that the run has used; no rows if it did not record them."""
    try:
        with open_regular(run.path / "splits.csv") as file:
            rows = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=_CONTENTS)
    except (OSError, ValueError):
        rows = pd.DataFrame(columns=_CONTENTS, dtype=str)
    return rows.assign(path=rows["path"].str.normalize("NFC")).drop_duplicates("path")


def _pair_up(first: Run, second: Run, split: str, one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return one row per image; the predictions of the second run are in columns that end in `_2`."""
    pairs = one.merge(other, on="path", how="outer", suffixes=("", "_2"), indicator=True)
    in_both, is_recorded = pairs["_merge"] == "both", pairs["digest"].notna() & pairs["digest_2"].notna()
    num_alone, num_other_class = int((~in_both).sum()), int((in_both & (pairs["true"] != pairs["true_2"])).sum())
    num_other_file = int((is_recorded & (pairs["digest"] != pairs["digest_2"])).sum())  # of the same name
    if num_alone or num_other_class or num_other_file:
        what = f"{second.path}: was not evaluated on the images of {first.path}"
        counts = f"{num_alone} of {len(pairs)} {split} images are in one of them only, {num_other_class} changed class"
        counts += f", {num_other_file} are other files of the same name" if num_other_file else ""
        raise DataError(f"{what}: {counts}", _hint(second))
    return pairs


def _hint(run: Run) -> str:
    return f"Score each on the same folder: python Engine.py evaluate --run {run.path} --data FOLDER"
