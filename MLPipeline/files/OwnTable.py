"""Recognises the tables that `predict --csv` and `evaluate --csv` have written: only these are replaced unasked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

ANSWER_COLUMNS = ("path", "answered", "predicted", "confidence")
PREDICTION_COLUMNS = ("path", "split", "true", "predicted", "confidence", "loss")
_PLACES = re.compile(r"answered|p_.*|(class|confidence)_\d+", re.DOTALL)
_NUMBERS = re.compile(r"loss|p_.*|confidence(_\d+)?", re.DOTALL)
_CLASSES = re.compile(r"predicted|class_\d+")


def is_own_table(path: Path) -> bool:
    """Return whether `path` is a table of predictions as the commands write it, and unchanged as far as that can show.

    A table with other columns or line ends, with text in place of a figure, or with the same class in two places of a
    row has been edited, or is not one of ours.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
            header = next(csv.reader([first]), [])
            if not _is_own_header(header) or first != _as_written(header):
                return False
            return all(_is_own_row(header, row) for row in csv.reader(file, strict=True))
    except (OSError, ValueError, csv.Error):
        return False


def _is_own_header(header: Sequence[str]) -> bool:
    starts = (ANSWER_COLUMNS, PREDICTION_COLUMNS)
    return any(
        tuple(header[: len(start)]) == start and all(map(_PLACES.fullmatch, header[len(start) :])) for start in starts
    )


def _as_written(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()


def _is_own_row(header: Sequence[str], row: Sequence[str]) -> bool:
    if len(row) != len(header):
        return False
    cells = list(zip(header, row, strict=True))
    classes = [cell for name, cell in cells if _CLASSES.fullmatch(name) and cell]
    are_flags = all(cell in ("true", "false") for name, cell in cells if name == "answered")
    return (
        are_flags
        and len(set(classes)) == len(classes)
        and all(_is_number(cell) for name, cell in cells if _NUMBERS.fullmatch(name) and cell)
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
