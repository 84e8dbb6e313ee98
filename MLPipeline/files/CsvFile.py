"""Writes CSV files atomically, and safe to open in a spreadsheet.

`write_csv` writes a whole table, `open_csv` one row after another.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from MLPipeline.files.AtomicFile import unwritable, write_file

# A spreadsheet runs a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

AddRow = Callable[[Iterable[object]], None]


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    r"""Write `frame` without its index to `path` as UTF-8; an existing file is replaced only by a complete new one.

    Text that a spreadsheet would execute gets a leading apostrophe, in cells and headers. Numbers stay numbers, and
    missing values become empty cells. Bytes of a file name that are not UTF-8 (in Python, surrogates) read `\udcff`.

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
        text.detach()  # flushes without closing `file`

    write_file(path, write)


@contextmanager
def open_csv(path: Path, columns: Sequence[str]) -> Iterator[AddRow]:
    """Yield a function that adds a row; when the `with` block ends without error, the table is in `path`.

    Until then the rows are in an unnamed temporary file in the same folder.

    Raises:
        ResourceError: the disk is full or the folder cannot be written (raised before the first row, if known then).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = tempfile.TemporaryFile("w+", dir=path.parent, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise unwritable(path, error) from error
    writer = csv.writer(rows, lineterminator="\r\n")

    def add(row: Iterable[object]) -> None:
        try:
            writer.writerow([cell_text(cell) if isinstance(cell, str) else cell for cell in row])
        except OSError as error:
            raise unwritable(path, error) from error

    try:
        add(columns)
        yield add
        rows.seek(0)
        write_file(path, lambda file: file.writelines(row.encode() for row in rows))
    finally:
        with suppress(OSError):  # the disk is full, which has been reported
            rows.close()


def cell_text(text: str) -> str:
    """Return the content of the cell that `text` is written to."""
    return str(_safe_cell(text)).encode("utf-8", "backslashreplace").decode("utf-8")


def _safe_cell(value: Any) -> Any:
    """Return `value` for the csv module, so that no spreadsheet executes it; None if it is missing."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return None if pd.isna(value) else value
