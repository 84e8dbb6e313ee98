"""Corrected labels as a table laid over the folders: no file is moved or renamed.

`audit` writes `fixes.csv`: how each suspect is labelled, and what is suggested. People edit its column `label`, and
`--fixes fixes.csv` makes it count. Any table with these two columns will do:

    path,label
    train/shirt/17.jpg,dress        counts as a dress from now on
    train/shirt/33.jpg,             left out
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from MLPipeline.Errors import DataError, UsageError, did_you_mean
from MLPipeline.files.CsvFile import cell_text, write_csv
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import TRAIN, UNSPLIT, ImageIndex

_EXPECTED = "Give a CSV file in UTF-8 with the columns path and label, as audit writes it"


@dataclass(frozen=True)
class Fix:
    """A row of `fixes.csv`: an image whose label is in doubt; it is decided once `label` is not `given` any more."""

    path: str  # relative to the data folder
    label: str  # what counts with --fixes; empty: leave the image out
    given: str  # what it was labelled when it came under suspicion
    suggested: str
    confidence: float  # in `suggested`, 0 to 1


def write_fixes(file: Path, fixes: Sequence[Fix]) -> int:
    """Write `fixes` for people to edit; return how many rows of an older `file` were decided, and stay as they are.

    Raises:
        UsageError: there is an older file, and it cannot be read.
        ResourceError: it cannot be written.
    """
    columns = [each.name for each in fields(Fix)]
    table = pd.DataFrame([asdict(fix) for fix in fixes], columns=columns, dtype=object)
    decided = pd.DataFrame(columns=columns)
    if file.exists():
        older = _read(file).reindex(columns=columns, fill_value="")
        decided = older[older["label"] != older["given"]]
        table = table[~table["path"].map(cell_text).isin(decided["path"])]
    write_csv(pd.concat([decided, table]), file)
    return len(decided)


def apply_fixes(index: ImageIndex, file: Path) -> ImageIndex:
    """Return `index` with the labels of the table `file`; images whose label is empty there become skipped.

    Raises:
        UsageError: `file` is no such table, or names an image or a class that there is not.
        DataError: a class has lost all its images to learn from.
    """
    table = _read(file)
    label_of = {cell_text(name): label for label, name in enumerate(index.classes)} | {"": -1}
    for name in table["label"]:
        if name not in label_of:
            raise UsageError(f"--fixes {file}: no class {name!r}", did_you_mean(name, index.classes))
    wanted = dict(zip(table["path"], table["label"].map(label_of), strict=True))
    labels = index.labels.copy()
    for position in range(len(index)):
        labels[position] = wanted.pop(cell_text(index.name(position)), labels[position])
    if wanted:
        raise UsageError(
            f"--fixes {file}: no image {next(iter(wanted))!r} in {index.root}", "Correct or remove that row"
        )
    fixed = _without(replace(index, labels=labels), np.flatnonzero(labels < 0), f"left out by {file.name}")
    kept = fixed.labels[np.isin(fixed.splits, (TRAIN, UNSPLIT))]
    for label in np.flatnonzero(np.bincount(kept, minlength=len(index.classes)) == 0):
        raise DataError(f"--fixes {file}: leaves no image to learn {index.classes[label]!r} from", "Keep some of them")
    return fixed


def _read(file: Path) -> pd.DataFrame:
    """Return a table of texts; spreadsheets part the columns by commas or by semicolons, and may begin with a mark."""
    try:
        with open(file, encoding="utf-8-sig") as lines:
            header = lines.readline()
        separator = ";" if ";" in header and "," not in header else ","
        table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"--fixes {file}: cannot be read as a table ({error})", _EXPECTED) from error
    if not {"path", "label"} <= set(table.columns):
        raise UsageError(f"--fixes {file}: lacks the column path or label", _EXPECTED)
    return table


def _without(index: ImageIndex, positions: np.ndarray, reason: str) -> ImageIndex:
    """Return the index with the images at `positions` among those skipped."""
    if not len(positions):
        return index
    kept = np.setdiff1d(np.arange(len(index)), positions)
    names = [os.fsencode(index.name(position)) for position in kept.tolist()]
    return replace(
        index,
        labels=index.labels[kept],
        splits=index.splits[kept],
        skipped=(*index.skipped, *(Skipped(index.name(position), reason) for position in positions.tolist())),
        _names=b"".join(names),
        _ends=np.cumsum([len(name) for name in names], dtype=np.int64),
    )
