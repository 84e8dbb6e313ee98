"""Which columns of a table hold the paths, the labels, the splits and the groups of its images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from MLPipeline.Errors import UsageError
from MLPipeline.files.TableFile import TableFile
from MLPipeline.images.SplitNames import split_of_name

# Names in lower case, letters and digits alone (`Image_ID` is `imageid`); the first that a table has is used.
PATH_COLUMNS = (
    "path",
    "filepath",
    "filepaths",
    "imagepath",
    "filename",
    "file",
    "image",
    "imagename",
    "imageid",
    "img",
    "id",
)
LABEL_COLUMNS = ("label", "labels", "class", "classname", "classlabel", "target", "category")
SPLIT_COLUMNS, GROUP_COLUMNS = ("split", "subset", "partition", "usage", "set", "dataset"), ("group", "groupid")
_NUM_PROBED = 100  # rows looked at to see what columns hold
_FLAGS = {"0", "1", "0.0", "1.0", "False", "True", "false", "true"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """The positions of the columns that are used; None where there is no such column."""

    path: int
    label: int
    split: int | None
    group: int | None

    @property
    def used(self) -> list[int]:
        """The positions in the order path, label, split, group."""
        return [each for each in (self.path, self.label, self.split, self.group) if each is not None]


def choose_columns(table: TableFile) -> Columns:
    """Return the columns of `table` that are used.

    Raises:
        UsageError: there is no column of paths or of labels, or there are two that may hold the labels.
    """
    names = ["".join(letter for letter in name.casefold() if letter.isalnum()) for name in table.header]
    for column, name in enumerate(names):
        if name and name in names[:column] and name in (*PATH_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS):
            raise UsageError(f"{table.where}: two columns are called {table.header[column]!r}", "Keep one of them")
    labels = [column for column, name in enumerate(names) if name in LABEL_COLUMNS]
    path = next((names.index(name) for name in PATH_COLUMNS if name in names), None)
    if path is None:
        raise _lacks(table, "path (or image, filename, file, id)")
    if not labels:
        raise _one_hot(table, path) or _lacks(table, "label (or class, target, category)")
    if len(labels) > 1:
        listed = " and ".join(repr(table.header[column]) for column in labels)
        raise UsageError(f"{table.where}: the columns {listed} may both hold the labels", "Remove or rename one")
    split = next((names.index(name) for name in SPLIT_COLUMNS if name in names), None)
    if split is not None and names[split] != "split" and (other := _no_split(table, split)) is not None:
        logger.warning("%s: splits are not from %r, where %r is none", table.where, table.header[split], other)
        split = None
    return Columns(path, labels[0], split, next((names.index(name) for name in GROUP_COLUMNS if name in names), None))


def _lacks(table: TableFile, column: str) -> UsageError:
    found = ", ".join(repr(name) for name in table.header[:8]) + (", ..." if len(table.header) > 8 else "")
    return UsageError(f"{table.where}: lacks a column {column}; it has {found}", "Rename the column that holds it")


def _one_hot(table: TableFile, path: int) -> UsageError | None:
    """Return the error for a table with one column of zeros and ones per class; None if it is none."""
    others = [column for column in range(len(table.header)) if column != path]
    probe = [cells for _, cells in _first_rows(table, others)]
    flags = [
        name
        for name, *cells in zip((table.header[c] for c in others), *probe, strict=True)
        if cells and set(cells) <= _FLAGS
    ]
    if len(flags) < 2:
        return None
    what = f"{table.where}: has no column of labels but {len(flags)} columns of 0 and 1, such as {flags[0]!r}"
    return UsageError(what, "Write one column `label` with the name of each image's class")


def _no_split(table: TableFile, column: int) -> str | None:
    """Return the first cell that names no split; None if all do that are looked at."""
    cells = [cell for _, (cell,) in _first_rows(table, [column])]
    return next((cell for cell in cells if not split_of_name(cell)), None if cells else "")


def _first_rows(table: TableFile, columns: Sequence[int]) -> list[tuple[int, list[str]]]:
    return [row for row, _ in zip(table.rows(columns), range(_NUM_PROBED), strict=False)]
