"""Tables row by row: the same file that `write_csv` makes, whole or absent."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files.CsvFile import open_csv, write_csv
from MLPipeline.files.Destination import Destination

COLUMNS = ["path", "=class", "share"]
ROWS: list[tuple[Any, ...]] = [
    ("a.jpg", "cat", 0.25),
    ("=1+1.jpg", "@dog", -0.5),
    ('new\nline, "quoted".jpg', "käse", 1),
    ("\udcff.jpg", None, 0.0),
]


def test_the_table_is_that_of_write_csv(tmp_path: Path) -> None:
    with open_csv(Destination(tmp_path / "deep" / "stream.csv"), COLUMNS) as add:
        for row in ROWS:
            add(row)
    write_csv(pd.DataFrame(ROWS, columns=COLUMNS, dtype=object), tmp_path / "whole.csv")
    assert (tmp_path / "deep" / "stream.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, ResourceError("x", "y")])
def test_until_the_end_the_old_table_stays_and_nothing_lies_about(tmp_path: Path, error: Any) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error if isinstance(error, type) else type(error)):
        with open_csv(Destination(path), COLUMNS) as add:
            add(ROWS[0])
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_before_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/table.csv: cannot be written"):
        with open_csv(Destination(tmp_path / "file" / "table.csv"), COLUMNS):
            pytest.fail("it went on")


def test_a_disk_that_fills_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    monkeypatch.setattr("MLPipeline.files.CsvFile.tempfile.TemporaryFile", lambda *args, **named: full)
    with pytest.raises(ResourceError, match=r"table.csv: cannot be written \(No space left on device\)"):
        with open_csv(Destination(tmp_path / "table.csv"), COLUMNS) as add:
            for _ in range(10_000):
                add(ROWS[0])
    assert not (tmp_path / "table.csv").exists()
