"""Rows 46 and 47 of the fault matrix: a stopped run leaves complete files, says how to resume it, and can be resumed.

The signals come at chosen calls within this process (see `crash`); `test_Processes` sends them from outside.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from MLPipeline.files.TensorFile import load_file
from tests.support.crash import Blow
from tests.support.harness import Outcome
from tests.support.stop_cases import Command

MakeImages = Callable[..., Path]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
FLAGS = "--model made_up --unfreeze-after 1 --epochs 3 -b 4 --ema 0.9"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Command:
    return Command(tmp_path_factory.mktemp("stop"), make_images, FLAGS)


def require_whole(command: Command, output: Path, blow: Blow) -> Outcome:
    """Stop a run, and look at all that it leaves; then let it go on to its end."""
    outcome, path = command.strike(output, blow), output / "001-run"
    assert outcome.code == CODES[blow.signal], outcome.err
    assert "Traceback" not in outcome.err and "error:" not in outcome.err
    assert outcome.notes[-1] == f"to resume: python Engine.py --resume {path}"
    assert not (path / "metrics.json").exists() and not list(path.glob(".*"))
    for name in ("last.pt", "last.pt.prev", "model.pt", "model.pt.prev"):
        if (path / name).exists():
            load_file(path / name)
    assert command.go_on(output) == command.whole
    return outcome


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_in_a_step_it_ends_that_step(command: Command, tmp_path: Path, signum: signal.Signals) -> None:
    outcome = require_whole(command, tmp_path, Blow("step", 5, signal=signum))
    path = tmp_path / "001-run"
    assert outcome.notes[-2:-1] == [f"stopped: the best weights so far are in {path / 'model.pt'}"]
    state = load_file(path / "last.pt.prev")  # of the run that has gone on
    assert isinstance(state, dict)


@pytest.mark.slow
def test_before_the_first_epoch_ends_there_are_no_best_weights(command: Command, tmp_path: Path) -> None:
    outcome = command.strike(tmp_path, Blow("step", 2, signal=signal.SIGINT))
    assert "stopped before the first epoch was complete" in outcome.notes
    path = tmp_path / "001-run"
    assert load_file(path / "last.pt")["state"]["batch"] == 2  # type: ignore[index,call-overload]
    assert not (path / "model.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "blow",
    [
        Blow("cache", 6, "before", signal.SIGINT),
        Blow("cache", 6, "after", signal.SIGTERM),
        Blow("head", 1, "before", signal.SIGINT),
        Blow("score", 1, "before", signal.SIGINT),
        Blow("report", 1, "after", signal.SIGTERM),
        Blow("plot", 1, "after", signal.SIGTERM),
        Blow("plot", 6, "before", signal.SIGINT),
        Blow("save", 3, "amid", signal.SIGINT),
        Blow("save", 20, "amid", signal.SIGTERM),
        Blow("fsync", 15, "before", signal.SIGINT),
        Blow("replace", 20, "after", signal.SIGINT),
        Blow("replace", 5, "before", signal.SIGTERM),
        Blow("link", 3, "before", signal.SIGINT),
    ],
    ids=lambda blow: f"{blow.when} {blow.moment} {blow.number}",
)
def test_stopped_elsewhere(command: Command, tmp_path: Path, blow: Blow) -> None:
    require_whole(command, tmp_path, blow)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_second_signal_takes_effect_at_once(command: Command, tmp_path: Path, when: str) -> None:
    """The step under way is not saved; what was saved after the one before is whole."""
    twice = Blow("step", 5, when, signal.SIGINT, times=2)
    require_whole(command, tmp_path, twice)


@pytest.mark.slow
def test_a_second_signal_while_it_saves_breaks_nothing(command: Command, tmp_path: Path) -> None:
    outcome = command.strike(tmp_path, Blow("save", 4, "amid", signal.SIGINT, times=2))
    assert outcome.code == 130
    path = tmp_path / "001-run"
    assert load_file(path / "last.pt")["state"]["batch"] == 3 and not list(path.glob(".*"))  # type: ignore[index,call-overload]
    assert command.go_on(tmp_path) == command.whole


@pytest.mark.slow
def test_stopped_before_there_is_a_run(command: Command, tmp_path: Path) -> None:
    outcome = command.strike(tmp_path, Blow("scan", 1, signal=signal.SIGTERM))
    assert outcome.code == 143 and outcome.err == "" and not list(tmp_path.glob("[0-9]*"))
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "number", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_stopped_while_images_are_read_the_same_command_goes_on(command: Command, tmp_path: Path, number: int) -> None:
    outcome = command.strike(tmp_path, Blow("cache", number, signal=signal.SIGINT))
    assert (outcome.code, outcome.out) == (130, "") and not list(tmp_path.glob("[0-9]*"))
    assert outcome.err == "note: stopped while reading the images: the same command continues from there\n"
    assert command.again(tmp_path) == command.whole
