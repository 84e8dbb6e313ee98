"""Every finished run has one row in `runs.csv`, whatever other runs do to the table at the same time."""

from __future__ import annotations

import errno
import math
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
    assert read_runs(tmp_path) == []
    record_run(tmp_path, first, metrics(0.5), 10.0)
    record_run(tmp_path, second, metrics(None), 20.0)
    record_run(tmp_path, first, metrics(0.75), 11.0)  # again: it replaces its own row
    rows = read_runs(tmp_path)
    assert [row["run"] for row in rows] == ["002-b", "001-a"]
    assert math.isnan(rows[0]["test_accuracy"]) and rows[1]["test_accuracy"] == 0.75
    assert [row["seconds"] for row in rows] == [20.0, 11.0] and rows[1]["test_images"] == 7
    names = "run model weights val_accuracy val_images test_accuracy test_images macro_f1 baseline_accuracy seconds"
    assert [list(row) for row in rows] == [names.split()] * 2


def test_runs_that_end_at_once_lose_no_row(tmp_path: Path) -> None:
    runs = [create_run(tmp_path, "a", DATA) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: record_run(tmp_path, run, metrics(0.5), 1.0), runs))
    assert sorted(row["run"] for row in read_runs(tmp_path)) == [run.path.name for run in runs]


def test_damaged_rows_are_left_out_and_columns_of_other_versions_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = "run,model,weights,val_accuracy,test_accuracy,test_images,seconds,colour\n"
    rows = {
        "001-good": "cnn,none,,0.5,10,3,3",
        "002-short": "cnn,none",
        "003-over": "cnn,none,1.5,0.5,10,3,4",
        "004-timeless": "cnn,none,0.5,0.5,10,nan,4",
        "5-name": "cnn,none,0.5,0.5,10,3,4",
        "006-odd": "cnn,none,many,0.5,10,3,4",
    }
    text = header + "".join(f"{name},{cells}\n" for name, cells in rows.items()) + "\n001-good,cnn,none,,0.75,10,3,5\n"
    (tmp_path / "runs.csv").write_text(text)
    found = {row["run"]: row for row in read_runs(tmp_path)}
    assert list(found) == ["001-good", "006-odd"]
    assert found["001-good"]["test_accuracy"] == 0.75 and math.isnan(found["006-odd"]["val_accuracy"])
    assert caplog.messages == [f"{tmp_path / 'runs.csv'}: 5 of 7 rows are damaged and left out"]
    record_run(tmp_path, create_run(tmp_path, "a", DATA), metrics(0.5), 1.0)
    first, *_, last = (tmp_path / "runs.csv").read_text().splitlines()
    assert first == header.strip() + ",val_images,macro_f1,baseline_accuracy"
    assert last == "001-a,cnn,none,0.5,0.5,7,1.0,,7,0.5,0.4"
    assert read_runs(tmp_path)[0]["colour"] == 5


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'run\n"a', b"x,y\n1,2\n"])
def test_a_damaged_table_costs_no_run(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "runs.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match="runs.csv: is not a table of runs"):
        read_runs(tmp_path)
    record_run(tmp_path, create_run(tmp_path, "a", DATA), metrics(0.5), 1.0)
    assert [row["run"] for row in read_runs(tmp_path)] == ["001-a"]
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
