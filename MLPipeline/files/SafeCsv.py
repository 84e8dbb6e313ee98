"""The one way this project writes CSV: whole or absent, and harmless in a spreadsheet whatever the files are called."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from MLPipeline.files.AtomicFile import write_file

# A spreadsheet runs a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    r"""Write `frame` without its index to `path` as UTF-8; an older file is replaced only by a complete new one.

    Text that a spreadsheet would run gets a leading apostrophe, in cells and headers alike; numbers stay numbers and
    missing values are empty cells. Bytes of a file name that are not UTF-8 (surrogates in Python) appear as `\udcff`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        # RFC 4180's line ends, not "\n": Python before 3.13 quotes a cell only for the line ends it writes, and a bare
        # carriage return in a file name would break its row in two.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(_safe_cell(name) for name in frame.columns)
        writer.writerows(map(_safe_cell, row) for row in frame.itertuples(index=False, name=None))
        text.detach()  # flushes, and leaves closing to the owner of `file`

    write_file(path, write)


def cell_text(text: str) -> str:
    """Return what a reader finds in the cell that `text` was written to."""
    return str(_safe_cell(text)).encode("utf-8", "backslashreplace").decode("utf-8")


def _safe_cell(value: Any) -> Any:
    """Return `value` such that the csv module writes text that no spreadsheet runs, and nothing for a missing value."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return None if pd.isna(value) else value
