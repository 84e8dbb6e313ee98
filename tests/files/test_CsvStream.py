"""Tables row by row: the same file that `write_csv` makes, whole or absent."""

from __future__ import annotations

import errno
import io
import os
import pty
import stat
import subprocess
import sys
import tty
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


def written(destination: Destination) -> None:
    with open_csv(destination, COLUMNS) as add:
        for row in ROWS:
            add(row)


@pytest.fixture
def expected(tmp_path: Path) -> bytes:
    write_csv(pd.DataFrame(ROWS, columns=COLUMNS, dtype=object), tmp_path / "expected")
    return (tmp_path / "expected").read_bytes()


def test_a_pipe_receives_the_table_and_stays_a_pipe(tmp_path: Path, expected: bytes) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    written(Destination(tmp_path / "pipe", is_stream=True))
    assert reader.communicate(timeout=60)[0] == expected
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_terminal_receives_each_row_at_once(expected: bytes) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)  # otherwise the terminal changes the line ends
    with open_csv(Destination(Path(os.ttyname(slave)), is_stream=True), COLUMNS) as add:
        add(ROWS[0])
        received = b""
        while not received.endswith(b"a.jpg,cat,0.25\r\n"):
            received += os.read(master, 1000)
            assert received == expected[: len(received)]
    os.close(slave)
    os.close(master)


def test_a_reader_that_leaves_makes_the_table_incomplete(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["head", "-c", "1", tmp_path / "pipe"], stdout=subprocess.DEVNULL)
    with pytest.raises(ResourceError, match=r"pipe: the table is not complete \(Broken pipe\)"):
        with open_csv(Destination(tmp_path / "pipe", is_stream=True), COLUMNS) as add:
            for _ in range(100_000):
                add(ROWS[0])
    reader.wait(timeout=60)


def test_standard_output_receives_the_bytes_of_the_file(monkeypatch: pytest.MonkeyPatch, expected: bytes) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    written(Destination(Path("-"), is_stream=True, is_stdout=True))
    assert out.getvalue() == expected
    sys.stdout.write("it is still open")
    monkeypatch.setattr(sys, "stdout", text := io.StringIO(newline=""))
    written(Destination(Path("-"), is_stream=True, is_stdout=True))
    assert text.getvalue().encode("utf-8", "backslashreplace") == expected


def test_standard_output_that_is_full_makes_the_table_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Full()))
    what = r"standard output: the table is not complete \(No space left on device\)"
    with pytest.raises(ResourceError, match=what):
        written(Destination(Path("-"), is_stream=True, is_stdout=True))


def test_all_names_of_a_file_receive_the_table(tmp_path: Path, expected: bytes) -> None:
    """A hard link is written through, as a symbolic one is."""
    (tmp_path / "one").write_bytes(b"old and longer than the new one" * 100)
    os.link(tmp_path / "one", tmp_path / "other")
    written(Destination(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes() == expected
    assert os.path.samefile(tmp_path / "one", tmp_path / "other")
