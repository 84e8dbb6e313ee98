"""Rows 46 and 47 of the fault matrix: a run that is stopped leaves complete files and can be resumed.

The signals come at chosen calls within this process (see `crash`), and from outside in tests/report/test_Processes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from MLPipeline.files.TensorFile import load_file
from tests.support.crash import SignalAt, run_in_process
from tests.support.harness import Outcome
from tests.support.stop_cases import Command

MakeImages = Callable[..., Path]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
FLAGS = "--model made_up --unfreeze-after 1 --epochs 3 -b 4 --ema 0.9"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Command:
    return Command(tmp_path_factory.mktemp("stop"), make_images, FLAGS)


def require_whole(command: Command, output: Path, signal_at: SignalAt) -> Outcome:
    """Stop a run, and look at all that it leaves; then resume it to its end."""
    outcome, path = command.interrupt(output, signal_at), output / "001-run"
    assert outcome.code == CODES[signal_at.signal], outcome.err
    assert "Traceback" not in outcome.err and "error:" not in outcome.err
    assert outcome.notes[-1] == f"to resume: python Engine.py --resume {path}"
    assert not (path / "metrics.json").exists() and not list(path.glob(".*"))
    for name in ("last.pt", "last.pt.prev", "model.pt", "model.pt.prev"):
        if (path / name).exists():
            load_file(path / name)
    assert command.resume(output) == command.whole
    return outcome


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_046_047_stopped_in_a_training_step(command: Command, tmp_path: Path, signum: signal.Signals) -> None:
    """Ctrl-C or SIGTERM in a training step: code 130 or 143 after that step, all files whole, the `--resume` line."""
    outcome = require_whole(command, tmp_path, SignalAt("step", 5, signal=signum))
    path = tmp_path / "001-run"
    assert outcome.notes[-2:-1] == [f"stopped: the best weights so far are in {path / 'model.pt'}"]
    state = load_file(path / "last.pt.prev")  # of the resumed run
    assert isinstance(state, dict)


@pytest.mark.slow
def test_046_stopped_before_the_first_epoch_ends(command: Command, tmp_path: Path) -> None:
    """Ctrl-C before the first epoch ends: the state is saved, and a note says that there are no weights yet."""
    outcome = command.interrupt(tmp_path, SignalAt("step", 2, signal=signal.SIGINT))
    assert "stopped before the first epoch was complete" in outcome.notes
    path = tmp_path / "001-run"
    assert load_file(path / "last.pt")["state"]["batch"] == 2  # type: ignore[index,call-overload]
    assert not (path / "model.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "signal_at",
    [
        SignalAt("cache", 6, "before", signal.SIGINT),
        SignalAt("cache", 6, "after", signal.SIGTERM),
        SignalAt("head", 1, "before", signal.SIGINT),
        SignalAt("score", 1, "before", signal.SIGINT),
        SignalAt("report", 1, "after", signal.SIGTERM),
        SignalAt("plot", 1, "after", signal.SIGTERM),
        SignalAt("plot", 6, "before", signal.SIGINT),
        SignalAt("save", 3, "during", signal.SIGINT),
        SignalAt("save", 20, "during", signal.SIGTERM),
        SignalAt("fsync", 15, "before", signal.SIGINT),
        SignalAt("replace", 20, "after", signal.SIGINT),
        SignalAt("replace", 5, "before", signal.SIGTERM),
        SignalAt("link", 3, "before", signal.SIGINT),
    ],
    ids=lambda signal_at: f"{signal_at.when} {signal_at.moment} {signal_at.number}",
)
def test_046_047_stopped_elsewhere(command: Command, tmp_path: Path, signal_at: SignalAt) -> None:
    """Ctrl-C or SIGTERM while caching, saving, drawing or scoring: all files whole, resumed to the same result."""
    require_whole(command, tmp_path, signal_at)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_046_a_second_signal(command: Command, tmp_path: Path, when: str) -> None:
    """Ctrl-C twice: the second one ends the run at once; what was saved before is whole."""
    twice = SignalAt("step", 5, when, signal.SIGINT, times=2)
    require_whole(command, tmp_path, twice)


@pytest.mark.slow
def test_046_a_second_signal_while_saving(command: Command, tmp_path: Path) -> None:
    """Ctrl-C twice while a checkpoint is written: the previous checkpoint is whole."""
    outcome = command.interrupt(tmp_path, SignalAt("save", 4, "during", signal.SIGINT, times=2))
    assert outcome.code == 130
    path = tmp_path / "001-run"
    assert load_file(path / "last.pt")["state"]["batch"] == 3 and not list(path.glob(".*"))  # type: ignore[index,call-overload]
    assert command.resume(tmp_path) == command.whole


@pytest.mark.slow
def test_047_stopped_before_there_is_a_run(command: Command, tmp_path: Path) -> None:
    """SIGTERM while the folders are listed: code 143, no run folder, no message."""
    outcome = command.interrupt(tmp_path, SignalAt("scan", 1, signal=signal.SIGTERM))
    assert outcome.code == 143 and outcome.err == "" and not list(tmp_path.glob("[0-9]*"))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "number", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_046_stopped_while_images_are_read(command: Command, tmp_path: Path, number: int) -> None:
    """Ctrl-C while images are read: code 130, and a note that the same command continues from there."""
    outcome = command.interrupt(tmp_path, SignalAt("cache", number, signal=signal.SIGINT))
    assert (outcome.code, outcome.out) == (130, "") and not list(tmp_path.glob("[0-9]*"))
    assert outcome.err == "note: stopped while reading the images: the same command continues from there\n"
    assert command.again(tmp_path) == command.whole


def test_047_a_process_of_its_own(command: Command, tmp_path: Path) -> None:
    """SIGTERM to a process in a training step: it ends with code 143 and the `--resume` line; its checkpoint loads."""
    argv = [*command.flags, "--epochs", "100000", "--output", tmp_path / "output"]
    ended = run_in_process(argv, tmp_path / "log.txt", signal_at=SignalAt("step", 9, signal=signal.SIGTERM))
    assert ended.codes == (143,) and "note: to resume: python Engine.py --resume" in ended.text
    assert load_file(tmp_path / "output" / "001-run" / "last.pt")["state"]["batch"] == 3  # type: ignore[index,call-overload]
