"""Run folders count up, are found again by whatever one calls them, and leave a row each in `runs.csv`."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from MLPipeline.Errors import DataError, ResourceError, UsageError
from MLPipeline.files import RunFolder
from MLPipeline.files.RunFolder import Run, create_run, find_run, list_runs, read_runs, record_run

DATA = Path("Data")


def finished(run: Run) -> Run:
    run.model_file.touch()
    (run.path / "metrics.json").write_text(json.dumps({"model": "cnn"}))
    return run


def metrics(accuracy: float | None) -> dict[str, object]:
    split = {"accuracy": accuracy, "n": 7, "macro_f1": 0.5}
    return {"model": "cnn", "weights": {"kind": "none"}, "val": split, "test": split, "baseline_accuracy": 0.4}


def test_runs_are_numbered_from_the_highest_there_is(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "output"
    first = create_run(output, "cnn", DATA)
    assert first == Run(output / "001-cnn", 1, "cnn")
    assert first.path.is_dir() and first.model_file == output / "001-cnn" / "model.pt"
    (output / "041-old one").mkdir()
    (output / "cache").mkdir()
    (output / "099-a file").touch()
    assert create_run(output, "cnn", DATA).path.name == "042-cnn"
    assert [run.name for run in list_runs(output)] == ["cnn", "old one", "cnn"]


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for name in ("1000-a", "999-b", "002-c"):
        (tmp_path / name).mkdir()
    assert [run.number for run in list_runs(tmp_path)] == [2, 999, 1000]
    assert create_run(tmp_path, "d", DATA).path.name == "1001-d"


def test_runs_created_at_once_get_different_numbers(tmp_path: Path) -> None:
    names = [f"run{number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        runs = list(pool.map(lambda name: create_run(tmp_path, name, DATA), names))
    assert sorted(run.number for run in runs) == list(range(1, 13))


def test_a_lock_that_another_run_holds_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "_LOCK_TIMEOUT_S", 0.05)
    with FileLock(tmp_path / ".runs.lock"), pytest.raises(ResourceError, match="in use by another process. Wait"):
        create_run(tmp_path, "cnn", DATA)
    create_run(tmp_path, "cnn", DATA)  # the file is still there, the lock is not


@pytest.mark.parametrize("name", ["cnn", "my run 2", "a.b-c+d", "Käse", "7", "n" * 60])
def test_plain_names(tmp_path: Path, name: str) -> None:
    assert create_run(tmp_path, name, DATA).path.name == f"001-{name}"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-flag", "a\nb", "a\\b", " x", "n" * 61, "\x1b[2J"])
def test_names_that_would_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a plain name"):
        create_run(tmp_path, name, DATA)
    assert list(tmp_path.iterdir()) == []


def test_output_may_not_be_a_file_or_inside_the_images(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--output {tmp_path}/file: is a file. "):
        create_run(tmp_path / "file", "cnn", DATA)
    with pytest.raises(UsageError, match=f"--output {tmp_path}/file/below: {tmp_path}/file is a file, not a folder. "):
        create_run(tmp_path / "file" / "below", "cnn", DATA)
    for inside in (tmp_path / "Data", tmp_path / "Data" / "cat", tmp_path / "x" / ".." / "Data" / "out"):
        with pytest.raises(UsageError, match="lies inside the images"):
            create_run(inside, "cnn", tmp_path / "Data")
    (tmp_path / "link").symlink_to(tmp_path / "Data")
    with pytest.raises(UsageError, match="lies inside the images"):
        create_run(tmp_path / "link" / "out", "cnn", tmp_path / "Data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_the_newest_finished_run_is_the_default(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run. Train one"):
        find_run(tmp_path / "nowhere", None)
    finished(create_run(tmp_path, "cnn", DATA))
    wanted = finished(create_run(tmp_path, "cnn", DATA))
    create_run(tmp_path, "interrupted", DATA).model_file.touch()
    (finished(create_run(tmp_path, "damaged", DATA)).path / "metrics.json").write_text('{"model"')
    assert find_run(tmp_path, None) == wanted


def test_a_run_is_found_by_number_name_and_path(tmp_path: Path) -> None:
    output = tmp_path / "output"
    first, second, third = (finished(create_run(output, name, DATA)) for name in ("pets", "1", "pets"))
    assert find_run(output, "1") == find_run(output, "001") == find_run(output, "001-pets") == first  # not run "1"
    assert find_run(output, "2") == second
    assert find_run(output, "pets") == third  # the newest of that name
    assert find_run(tmp_path / "other", str(first.path)) == first
    assert find_run(tmp_path / "other", f"{first.path}/model.pt") == first


def test_a_model_file_anywhere_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "model.pt.prev").touch()
    run = find_run(tmp_path / "output", str(tmp_path / "shipped" / "model.pt.prev"))
    assert run == Run(tmp_path / "shipped", 0, "shipped", "model.pt.prev")
    assert run.model_file == tmp_path / "shipped" / "model.pt.prev"


@pytest.mark.parametrize("wanted", ["9", "pet", "no/such/path", "x" * 5000, "a\0b"])
def test_no_such_run(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(UsageError, match="no such run. .* has no runs"):
        find_run(tmp_path, wanted)
    create_run(tmp_path, "pets", DATA)
    with pytest.raises(UsageError, match="no such run. .*Choose from: 001-pets"):
        find_run(tmp_path, wanted)


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

    monkeypatch.setattr(RunFolder.pd, "read_csv", refused)
    with pytest.raises(ResourceError, match=rf"runs.csv: cannot be read \({os.strerror(number)}\)\. {hint}"):
        record_run(tmp_path, run, metrics(0.9), 1.0)
    assert table.read_bytes() == before and not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'run\n"a', b"x,y\n1,2\n"])
def test_a_damaged_table_costs_no_run(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "runs.csv"
    table.write_bytes(content)
    with pytest.raises(DataError, match="runs.csv: is not a table of runs"):
        read_runs(tmp_path)
    record_run(tmp_path, create_run(tmp_path, "a", DATA), metrics(0.5), 1.0)
    assert read_runs(tmp_path)["run"].tolist() == ["001-a"]
    assert (tmp_path / "runs.csv.damaged").read_bytes() == content
    assert caplog.messages == [f"{table}: is not a table of runs; renamed to {table}.damaged"]
