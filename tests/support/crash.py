"""Runs command lines in separate processes that receive a signal at a chosen moment.

The product has no hooks for this: functions that write, train or draw are wrapped here, and the signal is sent at
their n-th call. The processes are forked from one that has imported everything (a forkserver), so that each takes no
longer than the command itself.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tqdm import tqdm

import Engine
from MLPipeline import Models
from MLPipeline.files.Cache import RowStore
from MLPipeline.images.ImageWalk import ImageWalk
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.RunPage import PreparedReport
from MLPipeline.steps import FinishRun, FitPhases, Prepare  # noqa: F401  imported once, for all
from MLPipeline.training import Resume
from MLPipeline.training.TrainState import TrainState
from tests.support.made_up_net import SPEC

# The signal is sent before, during or after a call of one of these functions.
MOMENTS: dict[str, tuple[Any, str]] = {
    "scan": (ImageWalk, "images"),
    "cache": (RowStore, "append"),
    "step": (TrainState, "step"),
    "save": (torch, "save"),
    "fsync": (os, "fsync"),
    "link": (os, "link"),
    "replace": (os, "replace"),
    "plot": (FigureCanvasAgg, "draw"),
    "head": (FitPhases, "predict_split"),
    "score": (FinishRun, "calibrate_and_score"),
    "report": (PreparedReport, "write"),
    "record": (FinishRun, "record_run"),
}
MADE_UP = {"epochs": 3, "batch_size": 4, "optimizer": "adam", "lr": 0.01, "image_size": 8, "freeze": "backbone"}

_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Blow:
    """A signal at the `number`-th call of a moment: `before`, `after` or `amid` it (`save`: half is written)."""

    moment: str
    number: int
    when: str = "before"
    signal: signal.Signals = signal.SIGKILL
    times: int = 1


@dataclass(frozen=True)
class Ended:
    """The exit code of a process (-9: killed), its output, and its duration."""

    code: int
    text: str
    seconds: float
    calls: dict[str, int]  # of each moment, if the process ended by itself


def prepare(replace_by: Callable[[Any, str, Any], None], blow: Blow | None) -> dict[str, itertools.count[int]]:
    """Return a counter of calls per moment; `blow` determines the call at which the signal is sent.

    `replace_by` is a function like setattr; it also makes runs save after every step, write blank figures in this
    process, and know the model `made_up`.
    """
    models = Models.all_models() | {"made_up": replace(SPEC, defaults=MADE_UP)}
    replace_by(Models, "all_models", lambda: models)
    replace_by(Resume, "SECONDS_BETWEEN_SAVES", -1)
    replace_by(FitPhases, "SECONDS_BETWEEN_SAVES", -1)
    replace_by(drawing, "begin", lambda: None)
    replace_by(drawing, "_process", None)
    replace_by(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer)
    calls = {moment: itertools.count(1) for moment in MOMENTS}
    for moment, (owner, name) in MOMENTS.items():
        its_blow = blow if blow and blow.moment == moment else None
        replace_by(owner, name, _wrapped(getattr(owner, name), calls[moment], its_blow))
    return calls


def run_struck(
    argv: Sequence[str | Path],
    log: Path,
    blow: Blow | None = None,
    kill_after_s: float | None = None,
    forget_optimizer: bool = False,
    change: Callable[[], None] | None = None,
) -> Ended:
    """Return how `python Engine.py <argv>` ends with `blow`, or killed after `kill_after_s`; its output goes to `log`.

    `last.pt` is written after every step. With `forget_optimizer` the optimizer state in it is not loaded. `change` is
    called in the new process before the command.
    """
    _start_server()
    words = [str(word) for word in argv]
    started = time.monotonic()
    process = _processes.Process(target=_command, args=(words, log, blow, forget_optimizer, change))
    process.start()
    process.join(kill_after_s)
    if kill_after_s is not None:
        process.kill()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{words} hangs: {log.read_text()}")
    counted = log.with_suffix(".json")
    calls = json.loads(counted.read_text()) if counted.exists() else {}
    counted.unlink(missing_ok=True)
    return Ended(process.exitcode, log.read_text() if log.exists() else "", time.monotonic() - started, calls)


def result(output: Path) -> dict[str, Any]:
    """Return all results of the newest run, except durations."""
    path = sorted(output.glob("[0-9]*-run"))[-1]
    model = torch.load(path / "model.pt", weights_only=True)
    tensors = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in model["state_dict"].items())
    metrics = json.loads((path / "metrics.json").read_text())
    del metrics["timing"]
    runs = pd.read_csv(output / "runs.csv").drop(columns=["run", "seconds"])
    tables = ("predictions.csv", "splits.csv", "skipped.csv", "classes.txt")
    return {
        "weights": hashlib.sha256(tensors).hexdigest(),
        "epoch": model["epoch"],
        "history": pd.read_csv(path / "history.csv").drop(columns="seconds").to_csv(),
        "metrics": metrics,
        "runs": runs.to_csv(),
        "files": sorted(file.name for file in path.iterdir() if file.suffix != ".prev"),
    } | {name: (path / name).read_text() for name in tables}


def _start_server() -> None:
    """Have the forkserver import this module, which it finds through the inherited PYTHONPATH."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    _processes.set_forkserver_preload(["tests.support.crash"])


def _command(
    words: list[str], log: Path, blow: Blow | None, forget_optimizer: bool, change: Callable[[], None] | None
) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a semaphore, which a killed process would leak
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))
    calls = prepare(setattr, blow)
    if forget_optimizer:
        torch.optim.Optimizer.load_state_dict = lambda self, stored: None  # type: ignore[assignment,method-assign]
    if change:
        change()
    code = Engine.main(words)
    log.with_suffix(".json").write_text(json.dumps({moment: next(count) - 1 for moment, count in calls.items()}))
    sys.exit(code)


def _wrapped(function: Callable[..., Any], calls: itertools.count[int], blow: Blow | None) -> Callable[..., Any]:
    def strike() -> None:
        assert blow is not None
        for _ in range(blow.times):
            os.kill(os.getpid(), blow.signal)

    def wrapper(*args: Any, **named: Any) -> Any:
        number = next(calls)
        if blow is None or number != blow.number:
            return function(*args, **named)
        if blow.when == "before":
            strike()
        if blow.when == "amid":
            return _half_at_first(strike, function, *args)
        result = function(*args, **named)
        if blow.when == "after":
            strike()
        return result

    return wrapper


def _half_at_first(strike: Callable[[], None], save: Callable[..., Any], content: object, file: BinaryIO) -> None:
    save(content, whole := io.BytesIO())
    middle = whole.tell() // 2
    file.write(whole.getvalue()[:middle])
    file.flush()
    strike()
    file.write(whole.getvalue()[middle:])
