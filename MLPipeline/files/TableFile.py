"""Tables that people give us, read row by row as text: CSV and its relatives, and Parquet.

    table = TableFile(Path("train.csv"), "--labels")
    for row, cells in table.rows([0, 2]): ...             # row numbers as a spreadsheet shows them

Cells stay as they are written: `007`, `None`, `1e5`, `NA`. Separators (comma, semicolon, tab, bar) and encodings (UTF-8
and UTF-16, with or without a mark) are recognised.
"""

from __future__ import annotations

import csv
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.CsvFile import FORMULA_STARTS, cell_text
from MLPipeline.files.ErrnoHints import errno_hint

_SEPARATORS = ",;\t|"
_NO_TABLES = {".xlsx", ".xls", ".ods", ".json", ".zip", ".gz"}
_HEAD_BYTES = 4096  # that show the encoding
_HEADER_CHARACTERS = 2**17  # room for 10,000 columns; the csv module takes no cell that is longer
_HINT = "Give a CSV file with a header, saved as UTF-8"
_ROWS_AT_ONCE = 2**16  # of a Parquet file


class TableFile:
    """A table whose first row names its columns; `flag` is the option that named the file, for messages.

    Raises:
        UsageError: there is no such file, it is a device or a pipe, or it cannot be read as a table.
        ResourceError: it is a Parquet file and pyarrow is missing.
    """

    def __init__(self, file: Path, flag: str) -> None:
        self.file, self.where = file, f"{flag} {file}"
        self._is_parquet = file.suffix.lower() in (".parquet", ".pq")
        self._check_file()
        self._encoding, self._separator, self._first_row = "utf-8", ",", 1
        self.header: tuple[str, ...] = self._parquet_header() if self._is_parquet else self._text_header()

    def rows(self, columns: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each row that is not empty, with its cells in `columns`."""
        return self._parquet_rows(columns) if self._is_parquet else self._text_rows(columns)

    def unreadable(self, reason: object) -> UsageError:
        """Return the error for content that is no table."""
        return UsageError(f"{self.where}: cannot be read as a table ({reason})", _HINT)

    def _check_file(self) -> None:
        try:
            mode = os.stat(self.file).st_mode
        except OSError as error:
            raise UsageError(f"{self.where}: cannot be read ({error.strerror})", errno_hint(error, _HINT)) from error
        except ValueError as error:  # a null character in the name
            raise UsageError(f"{self.where}: cannot be read ({error})", _HINT) from error
        if not stat.S_ISREG(mode):
            what = "is a folder" if stat.S_ISDIR(mode) else "is a device or a pipe, not a regular file"
            raise UsageError(f"{self.where}: {what}", _HINT)
        if self.file.suffix.lower() in _NO_TABLES:
            raise self.unreadable(f"{self.file.suffix} is not read")

    def _text_header(self) -> tuple[str, ...]:
        try:
            with open(self.file, "rb") as raw:
                self._encoding = _encoding_of(raw.read(_HEAD_BYTES))
        except OSError as error:
            raise self.unreadable(error.strerror) from error
        with self._opened() as text:
            lines = text.read(_HEADER_CHARACTERS).splitlines(keepends=True)
        if len("".join(lines[:1])) == _HEADER_CHARACTERS:
            raise self.unreadable("its first row is too long")
        if lines and lines[0].lower().startswith("sep="):  # how some spreadsheets name their separator
            self._separator, self._first_row = lines[0][4:5], 2
            lines = lines[1:]
        else:
            self._separator = max(_SEPARATORS, key=lambda each: len(next(csv.reader(lines, delimiter=each), [])))
        header = next(csv.reader(lines, delimiter=self._separator), None)
        if not header or "\0" in "".join(header):
            raise self.unreadable("it is empty" if header is None else "its first row names no columns")
        return tuple(name.strip() for name in header)

    def _text_rows(self, columns: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        number, width = 0, len(self.header)
        with self._opened() as text:
            try:
                for number, cells in enumerate(csv.reader(text, delimiter=self._separator, strict=True), start=1):
                    if number <= self._first_row or not any(cells):
                        continue
                    if len(cells) != width:
                        cells = self._fitted(number, cells)
                    yield number, [cells[column] for column in columns]
            except csv.Error as error:
                raise self.unreadable(f"row {number + 1}: {error}") from error

    def _fitted(self, number: int, cells: list[str]) -> list[str]:
        """Return a row that is too short or too long with as many cells as there are columns."""
        width = len(self.header)
        if any(cells[width:]):
            what = f"{self.where}: row {number} has {len(cells)} cells, and there are {width} columns"
            raise UsageError(what, f"Put quotes around cells that contain {self._separator!r}")
        return (cells + [""] * width)[:width]

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        try:
            with open(self.file, encoding=self._encoding, newline="") as text:
                yield text
        except UnicodeError as error:
            raise self.unreadable(f"not {self._encoding.upper()} text: {error}") from error
        except OSError as error:
            raise self.unreadable(error.strerror) from error

    def _parquet_header(self) -> tuple[str, ...]:
        try:
            import pyarrow.parquet  # noqa: F401  the rest of the project does without it
        except ModuleNotFoundError as error:
            what = f"{self.where}: Parquet files need the package pyarrow"
            raise ResourceError(what, "Run pip install pyarrow, or give a CSV file") from error
        with self._parquet() as parquet:
            return tuple(parquet.schema_arrow.names)

    def _parquet_rows(self, columns: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        number, names = 0, [self.header[column] for column in columns]
        with self._parquet() as parquet:
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=names):
                lists = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in names]
                for cells in zip(*lists, strict=True):
                    number += 1
                    if any(cell is not None for cell in cells):
                        yield number, ["" if cell is None else str(cell) for cell in cells]

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.file) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            raise self.unreadable(str(error).splitlines()[0]) from error


def plain_cell(cell: str) -> str:
    """Return the text that a cell stands for: `write_csv` puts an apostrophe before what a spreadsheet would run."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def cell_key(text: str) -> str:
    """Return what a name and all cells that stand for it share, whatever the form (NFC, NFD) of accented letters."""
    if text.isascii() and text.isprintable() and not text.startswith(("'", *FORMULA_STARTS)):
        return text
    return unicodedata.normalize("NFC", plain_cell(cell_text(text)))


def _encoding_of(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head) > 3 and head[:4].count(0) == 2:  # UTF-16 without its mark: every second byte of plain letters is 0
        return "utf-16-le" if head[1] == 0 else "utf-16-be"
    return "utf-8-sig"
