"""Corrected labels as a table laid over the images: no file is moved or renamed.

`audit` writes `fixes.csv`: how each suspect is labelled, and what is suggested. People edit its column `label`, and
`--fixes fixes.csv` applies it. Any table with these two columns will do:

    path,label
    train/shirt/17.jpg,dress        counts as a dress from now on
    train/shirt/33.jpg,             is left out

Where there is a column `given`, it must be the label that the image has without the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MLPipeline.Errors import DataError, UsageError, did_you_mean
from MLPipeline.files.CsvFile import cell_text, write_csv
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell
from MLPipeline.images.ScanFolders import TRAIN, UNSPLIT, ImageIndex

if TYPE_CHECKING:  # imported where a table is made: pandas takes 0.3 s
    import pandas as pd

_EXPECTED = "Give a table with one column path and one column label, as audit writes it"


@dataclass(frozen=True)
class Fix:
    """A row of `fixes.csv`: an image whose label is in doubt; it is decided once `label` differs from `given`."""

    path: str  # relative to the data folder
    label: str  # the label to use with --fixes; empty: leave the image out
    given: str  # the label it had when it came under suspicion
    suggested: str
    confidence: float  # in `suggested`, 0 to 1


@dataclass(frozen=True)
class _Row:
    number: int  # as a spreadsheet shows it
    path: str  # the cells as they are written
    label: str
    given: str  # empty where nothing is said


Cells = dict[str, str]  # a row of the table as text, by column


def write_fixes(file: Path, fixes: Sequence[Fix], decisions: Sequence[Fix] = ()) -> list[Cells]:
    """Write `fixes` for people to edit, and `decisions`; return these and the decided rows of an older `file`, kept.

    Raises:
        UsageError: there is an older file, and it cannot be read.
        ResourceError: it cannot be written.
    """
    import pandas as pd

    columns = [each.name for each in fields(Fix)]
    table = pd.DataFrame([asdict(fix) for fix in fixes], columns=columns, dtype=object)
    decided = pd.DataFrame([row_cells(fix) for fix in decisions], columns=columns, dtype=object)
    if file.exists():
        older = _read_all(file).reindex(columns=columns, fill_value="")
        is_decided = older["label"].map(cell_key) != older["given"].map(cell_key)
        is_other = ~older["path"].map(cell_key).isin(decided["path"].map(cell_key))
        decided = pd.concat([decided, older[is_decided & is_other]])
    table = table[~table["path"].map(cell_key).isin(decided["path"].map(cell_key))]
    write_csv(pd.concat([decided, table]), file)
    return [dict(zip(columns, row, strict=True)) for row in decided.itertuples(index=False, name=None)]


def read_decisions(index: ImageIndex, file: Path) -> list[Fix]:
    """Return the rows of the table `file` that change the label of an image of `index`, with that label as `given`."""
    row_of = {cell_key(fix.path): fix for fix in read_fixes(file)}
    decisions = []
    for position in range(len(index)):
        given = index.classes[index.labels[position]]
        fix = row_of.get(cell_key(index.name(position)))
        if fix and cell_key(fix.label) != cell_key(given):
            decisions.append(replace(fix, path=index.name(position), given=given))
    return decisions


def row_cells(fix: Fix) -> Cells:
    """Return the row of `fix`, as it is written to the table."""
    return {name: cell_text(str(value)) for name, value in asdict(fix).items()}


def read_fixes(file: Path) -> list[Fix]:
    """Return the rows of a table of corrections; columns that are missing are empty.

    Raises:
        UsageError: it cannot be read as such a table.
    """
    rows = _read_all(file).reindex(columns=[each.name for each in fields(Fix)], fill_value="")
    cells = (map(plain_cell, row) for row in rows.itertuples(index=False, name=None))
    return [
        Fix(path, label, given, suggested, _number(confidence)) for path, label, given, suggested, confidence in cells
    ]


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    return 0.0


def apply_fixes(index: ImageIndex, file: Path) -> ImageIndex:
    """Return `index` with the labels of the table `file`; images whose label is empty there become skipped.

    Raises:
        UsageError: `file` is no such table, names an image or a class that does not exist, gives one image two labels,
            or its column `given` is not the label of the image.
        DataError: a class has lost all its training images.
    """
    table = TableFile(file, "--fixes")
    row_of: dict[str, _Row] = {}
    for row in _read_rows(table):
        other = row_of.setdefault(cell_key(row.path), row)
        if cell_key(other.label) != cell_key(row.label):
            what = f"{table.where}: rows {other.number} and {row.number} give {row.path!r} two labels"
            raise UsageError(f"{what}, {other.label!r} and {row.label!r}", "Keep one of the two rows")
    label_of = {cell_key(name): label for label, name in enumerate(index.classes)} | {"": -1}
    labels = index.labels.copy()
    for position in range(len(index)):
        if (key := cell_key(index.name(position))) in row_of:
            row = row_of.pop(key)
            labels[position] = _new_label(table.where, row, label_of, index, position)
    for row in row_of.values():
        what = f"{table.where}: no image {row.path!r} in {index.root}, as row {row.number} says"
        raise UsageError(what, "Correct or remove that row")
    fixed = replace(index, labels=labels).without(np.flatnonzero(labels < 0), f"left out by {file.name}")
    kept = fixed.labels[np.isin(fixed.splits, (TRAIN, UNSPLIT))]
    for label in np.flatnonzero(np.bincount(kept, minlength=len(index.classes)) == 0):
        raise DataError(f"{table.where}: leaves no image to learn {index.classes[label]!r} from", "Keep some of them")
    return fixed


def _new_label(where: str, row: _Row, label_of: dict[str, int], index: ImageIndex, position: int) -> int:
    if (label := label_of.get(cell_key(row.label))) is None:
        what = f"{where}: no class {row.label!r}, as in row {row.number}"
        raise UsageError(what, did_you_mean(row.label, index.classes))
    given, is_now = row.given, index.classes[index.labels[position]]
    if given and cell_key(given) != cell_key(is_now):
        what = f"{where}: row {row.number}: `given` is {given!r}, but {row.path!r} is labelled {is_now!r}"
        hint = "Correct the row: a spreadsheet may have changed it (007 to 7), or the image has moved since"
        raise UsageError(what, hint)
    return label


def _read_rows(table: TableFile) -> list[_Row]:
    columns = [_column(table, name) for name in ("path", "label")]
    if "given" in _names(table):
        columns.append(_column(table, "given"))
    rows = ((number, (*cells, "")[:3]) for number, cells in table.rows(columns))
    return [_Row(number, path, label, given) for number, (path, label, given) in rows]


def _column(table: TableFile, name: str) -> int:
    names = _names(table)
    if name not in names:
        raise UsageError(f"{table.where}: lacks the column path or label", _EXPECTED)
    if names.count(name) > 1:
        raise UsageError(f"{table.where}: row 1 names two columns {name}", _EXPECTED)
    return names.index(name)


def _names(table: TableFile) -> list[str]:
    return [name.casefold() for name in table.header]


def _read_all(file: Path) -> pd.DataFrame:
    """Return the columns of an older table that are ours, as texts."""
    import pandas as pd

    table = TableFile(file, "--fixes")
    names = [name for name in (each.name for each in fields(Fix)) if name in _names(table)]
    columns = [_column(table, name) for name in dict.fromkeys(["path", "label", *names])]
    rows = [cells for _, cells in table.rows(columns)]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(["path", "label", *names])), dtype=object)
