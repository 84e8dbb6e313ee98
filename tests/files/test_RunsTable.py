"""Every finished run has one row in `runs.csv`, whatever other runs do to the table at the same time."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files import RunsTable
from MLPipeline.files.RunFolder import create_run
from MLPipeline.files.RunsTable import read_runs, record_run

DATA = Path("Data")


def metrics(accuracy: float | None) -> dict[str, object]:
    split = {"accuracy": accuracy, "n": 7, "macro_f1": 0.5}
    return {"model": "cnn", "weights": {"kind": "none"}, "val": split, "test": split, "baseline_accuracy": 0.4}


def test_each_run_has_one_row(tmp_path: Path) -> None:
    first, second = create_run(tmp_path, "a", DATA), create_run(tmp_path, "b", DATA)
    assert read_runs(tmp_path).empty
    record_run(tmp_path, first, metrics(0.5), 10.0)
    record_run(tmp_path, second, metrics(None), 20.0)
    record_run(tmp_path, first, metrics(0.75), 11.0)  # again: it replaces its own row
    rows = read_runs(tmp_path)
    assert rows["run"].tolist() == ["002-b", "001-a"]
    assert rows["test_accuracy"].tolist()[1] == 0.75 and rows["test_accuracy"].isna().tolist() == [True, False]
    assert rows["seconds"].tolist() == [20.0, 11.0]
    assert rows.columns.tolist() == (
        "run model weights val_accuracy val_images test_accuracy test_images macro_f1 baseline_accuracy seconds".split()
    )


def test_runs_that_end_at_once_lose_no_row(tmp_path: Path) -> None:
    runs = [create_run(tmp_path, "a", DATA) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: record_run(tmp_path, run, metrics(0.5), 1.0), runs))
    assert sorted(read_runs(tmp_path)["run"]) == [run.path.name for run in runs]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'run\n"a', b"x,y\n1,2\n"])
def test_a_damaged_table_costs_no_run(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "runs.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match="runs.csv: is not a table of runs"):
        read_runs(tmp_path)
    record_run(tmp_path, create_run(tmp_path, "a", DATA), metrics(0.5), 1.0)
    assert read_runs(tmp_path)["run"].tolist() == ["001-a"]
    assert (tmp_path / "runs.csv.damaged").read_bytes() == content
    (message,) = caplog.messages
    assert message.startswith(f"{table}: is not a table of runs (")
    assert message.endswith(f"; renamed to {table}.damaged")


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EACCES, "Change the permissions"), (errno.EIO, "Check that the disk is connected")]
)
def test_a_table_that_cannot_be_read_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    run, table = create_run(tmp_path, "cnn", DATA), tmp_path / "runs.csv"
    record_run(tmp_path, run, metrics(0.9), 1.0)
    before = table.read_bytes()

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("MLPipeline.files.PlainFile.os.open", refused)
    with pytest.raises(ResourceError, match=rf"runs.csv: cannot be read \({os.strerror(number)}\)\. {hint}"):
        RunsTable.read_runs(tmp_path)
    monkeypatch.undo()
    assert table.read_bytes() == before and not list(tmp_path.glob("*.damaged"))
