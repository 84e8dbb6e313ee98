"""One process at a time; the wait names the other one; and where the file system has no locks, work goes on."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files import Lock
from MLPipeline.files.Lock import has_locks, held

UNSUPPORTED = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM]


@pytest.fixture(autouse=True)
def _unknown_file_systems(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(Lock, "_has_locks", {})
    caplog.set_level(logging.WARNING, logger="MLPipeline")


@contextmanager
def held_elsewhere(file: Path, release: threading.Event) -> Iterator[threading.Thread]:
    """Hold the lock in another thread, as another process would, until `release` is set."""
    ready = threading.Event()

    def hold() -> None:
        with held(file, file.parent):
            ready.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert ready.wait(60)
    try:
        yield thread
    finally:
        release.set()
        thread.join()


def refusing(number: int) -> Callable[..., Any]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_a_free_lock_is_acquired_and_given_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with held(tmp_path / "lock", tmp_path):
            assert json.loads((tmp_path / "lock.owner").read_text())["pid"] == os.getpid()
        assert not (tmp_path / "lock.owner").exists()
    assert caplog.records == []


def test_a_lock_that_may_not_be_waited_for(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock", threading.Event()):
        start = time.monotonic()
        with pytest.raises(ResourceError) as caught, held(tmp_path / "lock", tmp_path, timeout_s=0):
            raise AssertionError
        assert time.monotonic() - start < 20
    said = rf"{tmp_path}: in use by process {os.getpid()} \(python.*, for \d s\)\. Wait until it is done, or end it"
    assert re.fullmatch(said, str(caught.value))


def test_waiting_names_the_process_and_goes_on_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Lock, "SILENT_S", 0.1)
    release = threading.Event()
    monkeypatch.setattr(Lock.logger, "warning", lambda *words: (said.append(words[0] % words[1:]), release.set()))
    said: list[str] = []
    with held_elsewhere(tmp_path / "lock", release), held(tmp_path / "lock", tmp_path):
        pass
    assert len(said) == 1
    assert said[0].startswith(f"waiting for process {os.getpid()} (python") and f"writing to {tmp_path}. " in said[0]


def test_the_wait_ends_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lock, "SILENT_S", 0.05)
    with held_elsewhere(tmp_path / "lock", threading.Event()):
        with pytest.raises(ResourceError, match="in use by process"), held(tmp_path / "lock", tmp_path, 0.2):
            raise AssertionError


def test_messages_come_within_five_seconds() -> None:
    assert Lock.SILENT_S < 5


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "another process"),
        ("", "another process"),
        ("4711", "another process"),
        ('{"pid": "x", "host": "", "command": "", "since": 0}', "another process"),
        ({"pid": 7, "command": "python Engine.py", "since": 0.0}, "another process"),
        ({"pid": 7, "host": "node3", "command": "a", "since": 400.0}, "process 7 on node3 (a, for 10 min)"),
        ({"pid": 7, "host": "node3", "command": "a", "since": 990.0}, "process 7 on node3 (a, for 10 s)"),
        ({"pid": 7, "host": "node3", "command": "a", "since": 2000.0}, "process 7 on node3 (a, for 0 s)"),  # clock set
        (
            {"pid": 7, "host": "n", "command": "b" * 99, "since": 990.0},
            f"process 7 on n ({'b' * 77}..., for 10 s)",
        ),
    ],
)
def test_what_is_known_of_the_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, object] | str | None, said: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    file = tmp_path / "lock.owner"
    if record is not None:
        file.write_text(record if isinstance(record, str) else json.dumps(record))
    assert Lock._owner(file) == said


@pytest.mark.parametrize("number", UNSUPPORTED, ids=errno.errorcode.get)
def test_without_locks_it_goes_on_with_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    done = []
    for name in ("a", "b"):
        with held(tmp_path / name, tmp_path, timeout_s=0):
            done.append(name)
    assert done == ["a", "b"] and not has_locks(tmp_path)
    assert [each.message for each in caplog.records] == [
        f"{tmp_path}: the file system has no locks ({os.strerror(number)}). "
        "Do not start two commands with the same --output at once"
    ]
    assert list(tmp_path.iterdir()) == []


def test_another_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / "lock", tmp_path):
        raise AssertionError


def test_a_record_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lock.owner").mkdir()
    with held(tmp_path / "lock", tmp_path):
        pass
