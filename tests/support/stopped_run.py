"""Fixtures: a small command, and the folder of a run that was stopped in its second epoch."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.crash import SignalAt, prepare
from tests.support.stop_cases import Command

FLAGS = "--model cnn --image-size 8 --epochs 3 -b 4 --lr 0.05"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Command:
    return Command(tmp_path_factory.mktemp("runs"), make_images, FLAGS)


@pytest.fixture(scope="module")
def _interrupted(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("stopped")
    assert command.interrupt(output, SignalAt("step", 5, signal=signal.SIGINT)).code == 130
    return output


@pytest.fixture
def stopped(_interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder of the stopped run."""
    shutil.copytree(_interrupted, tmp_path / "output")
    prepare(monkeypatch.setattr, None)
    return tmp_path / "output" / "001-run"
