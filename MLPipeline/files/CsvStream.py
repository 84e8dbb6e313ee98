"""A table written row by row, for as many rows as there are: at its place only once it is whole."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from MLPipeline.files.AtomicFile import unwritable, write_file
from MLPipeline.files.SafeCsv import cell_text

AddRow = Callable[[Iterable[object]], None]


@contextmanager
def open_csv(path: Path, columns: Sequence[str]) -> Iterator[AddRow]:
    """Give a function that adds a row; when the `with` block ends well, `path` holds the table, as `write_csv` would.

    Until then the rows wait in a nameless file in the same folder, which is gone whatever happens.

    Raises:
        ResourceError: the disk is full or the folder cannot be written; told before the first row, if it is so then.
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
        with suppress(OSError):  # of a full disk, which has been told
            rows.close()
