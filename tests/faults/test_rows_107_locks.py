"""Rows 107 and 108 of the fault matrix: file systems without locks, and waiting for another command."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from MLPipeline.console.Signals import Interrupted, stop_signals
from MLPipeline.files import Lock
from tests.support.harness import SMALL, succeed

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("locks") / "Data", {"cat": 10, "dog": 10})


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_107_a_file_system_without_locks_stops_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The run goes on to its end; one note says that it is not protected against a second command."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(Lock, "_has_locks", {})
    outcome = succeed([*SMALL, "--data", data, "--output", tmp_path])
    told = [note for note in outcome.notes if "has no locks" in note]
    assert len(told) == 1 and "Do not start two commands with the same --output at once" in told[0]
    assert (tmp_path / "001-cnn" / "metrics.json").exists() and "001-cnn" in (tmp_path / "runs.csv").read_text()


def test_108_a_wait_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends a command that waits for another one."""
    with open(tmp_path / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stop_signals.install()
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(Interrupted), Lock.held(tmp_path / "lock", tmp_path):
            raise AssertionError


def test_108_a_wait_says_for_which_process(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 5 s a command that waits names the other process, its command and what to do; then it goes on."""
    assert Lock.SILENT_S < 5
    monkeypatch.setattr(Lock, "SILENT_S", 0.1)
    succeed([*SMALL, "--data", data, "--output", tmp_path])
    (store,) = tmp_path.glob("cache/fingerprints-*")
    record = {"pid": 4711, "host": "node7", "command": "python Engine.py --model cnn", "since": 0.0}
    (store / "lock.owner").write_text(json.dumps(record))
    with open(store / "lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(1.0, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        outcome = succeed([*SMALL, "--data", data, "--output", tmp_path])
    (told,) = [note for note in outcome.notes if note.startswith("waiting for ")]
    assert told.startswith("waiting for process 4711 on node7 (python Engine.py --model cnn, for ")
    assert f"which is writing to {store}. To end the wait, press Ctrl-C, or end that process" in told
