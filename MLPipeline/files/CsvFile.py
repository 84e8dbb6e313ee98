"""Writes CSV files atomically, and safe to open in a spreadsheet.

`write_csv` and `write_rows` write a whole table, `open_csv` one row after another to where the user wants it, and
`append_rows` adds rows to a table that exists.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TextIO

from MLPipeline.Errors import ResourceError, one_line
from MLPipeline.files.AtomicFile import unwritable, write_file
from MLPipeline.files.Destination import Destination
from MLPipeline.files.ErrnoHints import errno_hint

if TYPE_CHECKING:  # imported where a table is made: pandas takes 0.3 s
    import pandas as pd

# A spreadsheet runs a cell that begins with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

AddRow = Callable[[Iterable[object]], None]


def write_csv(frame: pd.DataFrame, path: Path, keep_previous: bool = False) -> None:
    """Write `frame` without its index to `path`, as `write_rows` does."""
    write_rows(path, frame.columns, frame.itertuples(index=False, name=None), keep_previous)


def write_rows(
    path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]], keep_previous: bool = False
) -> None:
    r"""Write a table to `path` as UTF-8; an existing file is replaced only by a complete new one.

    Text that a spreadsheet would execute gets a leading apostrophe, in cells and headers. Control characters, invisible
    characters, and bytes of a file name that are not UTF-8, are written as `\n`, `\u202e`, `\udcff`. Numbers stay
    numbers, and missing values become empty cells. With `keep_previous`, an existing file is kept as `<name>.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """

    def write(file: BinaryIO) -> None:
        text = _as_text(file)
        add_row = _row_writer(text)
        add_row(columns)
        for row in rows:
            add_row(row)
        text.detach()  # flushes without closing `file`

    write_file(path, write, keep_previous)


def append_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Append `rows` to the table at `path`, which is created if it is missing, and flush them to disk: all or none.

    Raises:
        OSError: the disk is full or the file cannot be written; the file is then as it was.
    """
    content = io.BytesIO()
    text = _as_text(content)
    add_row = _row_writer(text)
    for row in rows:
        add_row(row)
    text.flush()
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        remaining = content.getbuffer()
        try:
            while remaining:
                remaining = remaining[file.write(remaining) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def write_answers(table: Mapping[str, Sequence[object]], destination: Destination) -> None:
    """Write the columns of `table` as `write_rows` does, to where the user wants it."""
    with open_csv(destination, list(table)) as add_row:
        for row in zip(*table.values(), strict=True):
            add_row(row)


@contextmanager
def open_csv(destination: Destination, columns: Sequence[str]) -> Iterator[AddRow]:
    """Yield a function that adds a row to the table; the header is written first.

    A file has its old content until the `with` block ends without error, then all of the new one; its permissions, its
    owner and its other hard links are kept. A stream receives each row as it comes.

    Raises:
        ResourceError: the disk is full, the folder cannot be written (raised before the first row, if known then), or
            the reader of a stream has closed it.
    """
    opened = _open_stream if destination.is_stream else _open_file
    with opened(destination) as text:
        add_row = _row_writer(text)

        def add(row: Iterable[object]) -> None:
            try:
                add_row(row)
            except OSError as error:
                raise _unwritable(destination, error) from error

        add(columns)
        yield add


@contextmanager
def _open_file(destination: Destination) -> Iterator[TextIO]:
    """Yield an unnamed temporary file in the folder of the destination, which then becomes its content."""
    path = destination.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = tempfile.TemporaryFile(dir=path.parent)
    except OSError as error:
        raise _unwritable(destination, error) from error
    text = _as_text(rows)
    try:
        yield text
        try:
            text.flush()
            rows.seek(0)
            if _num_links(path) > 1:  # a new file would part from the other names of the old one
                with path.open("wb") as file:
                    shutil.copyfileobj(rows, file)
                return
        except OSError as error:
            raise _unwritable(destination, error) from error
        write_file(path, lambda file: shutil.copyfileobj(rows, file))
    finally:
        with suppress(OSError):  # the disk is full, which has been reported
            text.close()


@contextmanager
def _open_stream(destination: Destination) -> Iterator[TextIO]:
    """Yield the stream as text; what is written is flushed at the end, on a terminal after each row."""
    if destination.is_stdout and not hasattr(sys.stdout, "buffer"):  # replaced by something that takes text only
        yield sys.stdout
        return
    try:
        raw = sys.stdout.buffer if destination.is_stdout else open(destination.path, "wb")
    except OSError as error:
        raise _unwritable(destination, error) from error
    text = _as_text(raw, line_buffering=raw.isatty())
    try:
        yield text
        try:
            text.flush()
        except OSError as error:
            raise _unwritable(destination, error) from error
    finally:
        with suppress(OSError):  # of an error that has been reported
            text.detach()
        if not destination.is_stdout:
            with suppress(OSError):
                raw.close()


def _as_text(file: IO[bytes], line_buffering: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        file, encoding="utf-8", errors="backslashreplace", newline="", line_buffering=line_buffering
    )


def _row_writer(text: TextIO) -> AddRow:
    # RFC 4180's line ends, not "\n": Python before 3.13 quotes a cell only for the line ends it writes.
    writer = csv.writer(text, lineterminator="\r\n")
    return lambda row: writer.writerow(map(_safe_cell, row))


def _num_links(path: Path) -> int:
    try:
        return os.stat(path).st_nlink
    except FileNotFoundError:
        return 0


def _unwritable(destination: Destination, error: OSError) -> ResourceError:
    if destination.is_stream:
        what = f"{destination}: the table is not complete ({error.strerror or error})"
        return ResourceError(what, errno_hint(error, "Write it to a file"))
    return unwritable(destination.path, error, "Give --csv another file")


def cell_text(text: str) -> str:
    """Return the content of the cell that `text` is written to."""
    return str(_safe_cell(text)).encode("utf-8", "backslashreplace").decode("utf-8")


def _safe_cell(value: Any) -> Any:
    """Return `value` for the csv module, so that no spreadsheet executes it; None if it is missing."""
    if isinstance(value, str):
        text = one_line(value)
        return f"'{text}" if text.startswith(FORMULA_STARTS) else text
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    """Return the same as pandas.isna, without importing it, for None, NaN and the NaT and NA of pandas."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # NA is neither true nor false
        return True
