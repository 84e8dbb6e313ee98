"""Rows 98 and 99 of the fault matrix: every signal that ends a command leaves a run that can be resumed, and soon."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from MLPipeline.console import Signals
from MLPipeline.console.Signals import Interrupted, stop_signals
from MLPipeline.files.TensorFile import load_file
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images import Inspect
from MLPipeline.report import Drawing
from MLPipeline.training.TrainState import TrainState
from tests.support.crash import SignalAt, run_in_process
from tests.support.stop_cases import Command

MakeImages = Callable[..., Path]
FLAGS = "--model made_up --unfreeze-after 1 --epochs 2 -b 4"
CODES = {
    signal.SIGHUP: 129,
    signal.SIGQUIT: 131,
    signal.SIGUSR1: 138,
    signal.SIGUSR2: 140,
    signal.SIGXCPU: 152,
}


@pytest.fixture
def stopping() -> Iterator[None]:
    stop_signals.install()
    yield
    stop_signals.uninstall()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Command:
    return Command(tmp_path_factory.mktemp("signals"), make_images, FLAGS)


@pytest.mark.parametrize("signum", CODES)
def test_098_a_signal_saves_the_state_and_has_the_shells_code(
    command: Command, tmp_path: Path, signum: signal.Signals
) -> None:
    """SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXCPU end a run after its step, with code 128 + n, and it is resumed."""
    outcome, path = command.interrupt(tmp_path, SignalAt("step", 5, signal=signum)), tmp_path / "001-run"
    assert outcome.code == CODES[signum], outcome.err
    assert "Traceback" not in outcome.err and "error:" not in outcome.err
    assert outcome.notes[-1] == f"to resume: python Engine.py --resume {path}"
    state: Any = load_file(path / "last.pt")
    assert len(state["state"]["history"]) * 3 + state["state"]["batch"] == 5
    assert f"stopped by {signum.name}" in (path / "report.html").read_text()
    if signum in (signal.SIGHUP, signal.SIGXCPU):
        assert command.resume(tmp_path) == command.whole


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT])
def test_098_what_is_ignored_at_the_start_stays_ignored(
    command: Command, tmp_path: Path, signum: signal.Signals
) -> None:
    """Under `nohup` (SIGHUP), and in the background of a script (SIGINT), the run goes on to its end."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        outcome = command.interrupt(tmp_path, SignalAt("step", 5, signal=signum))
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)
    assert outcome.code == 0 and "resume" not in outcome.err


@pytest.mark.usefixtures("stopping")
def test_099_a_signal_ends_the_wait_for_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that waits for its drawing process ends, and so does that process, even if it hangs."""
    monkeypatch.setattr(Drawing, "_TIMEOUT_S", 0.2)
    drawing = Drawing.Drawing()
    drawing.begin()
    process = drawing._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    drawing.draw("Plots.plot_history", (), tmp_path / "history.png")
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(Interrupted):
        drawing.finish()
    drawing.abandon()
    assert process.poll() == -signal.SIGKILL


def compute_for_minutes() -> None:
    """Compute in C, where Python runs no signal handler."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def shorten_the_limits() -> None:
    Signals.GRACE_S, Signals.LIMIT_S = 0.2, 0.4


def hang_in_a_step() -> None:
    shorten_the_limits()
    calls, step = iter(range(100)), TrainState.step

    def never_ending(state: TrainState) -> None:
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            compute_for_minutes()
        step(state)

    TrainState.step = never_ending  # type: ignore[method-assign]


def hang_in_a_thread_of(owner: Any, name: str) -> None:
    shorten_the_limits()

    def never_ending(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        compute_for_minutes()

    setattr(owner, name, never_ending)


def hang_in_extraction() -> None:
    hang_in_a_thread_of(FastForward, "__call__")


def hang_in_inspection() -> None:
    hang_in_a_thread_of(Inspect, "make_rows")


# Processes of their own, because they are ended while they compute.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("hang", "has_run"), [(hang_in_a_step, True), (hang_in_extraction, None), (hang_in_inspection, False)]
)
def test_099_a_signal_ends_a_command_that_is_busy(
    command: Command, tmp_path: Path, hang: Callable[[], None], has_run: bool | None
) -> None:
    """A step, the extraction of features and the reading of images are left 8 s after the signal at the latest."""
    output = tmp_path / "output"
    ended = run_in_process([*command.flags, "--output", output], tmp_path / "log.txt", change=hang)
    assert ended.code == 143, ended.text
    assert "Traceback" not in ended.text and "error:" not in ended.text
    assert ended.seconds < 100  # computing takes minutes
    if has_run is not None:
        assert (output / "001-run").exists() == has_run
    if has_run:
        assert f"note: to resume: python Engine.py --resume {output / '001-run'}\n" in ended.text
        assert command.resume(output) == command.whole
    else:
        assert command.again(output) == command.whole
