"""Runs command lines in separate processes that receive a signal at a chosen moment; also as several ranks.

The product has no hooks for this: functions that write, train or draw are wrapped here, and the signal is sent at
their n-th call. The processes are forked from one that has imported everything (a forkserver) and has started no
threads, so that each takes no longer than the command itself.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import torch
import torch.distributed as dist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tqdm import tqdm

import Engine
from MLPipeline import Models
from MLPipeline.distributed import Ranks as RanksFile
from MLPipeline.distributed import Rendezvous
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.Cache import RowStore
from MLPipeline.images.ImageWalk import ImageWalk
from MLPipeline.report.RunPage import PreparedReport
from MLPipeline.steps import FinishRun, FitPhases
from MLPipeline.training import Resume
from MLPipeline.training.TrainState import TrainState
from tests.support.fork_server import fork_server
from tests.support.harness import empty_figures
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

TIME_LIMIT_S = 120


@dataclass(frozen=True)
class SignalAt:
    """A signal at the `number`-th call of a moment: `before`, `after` or `during` it (`save`: half is written)."""

    moment: str
    number: int
    when: str = "before"
    signal: signal.Signals = signal.SIGKILL
    times: int = 1


@dataclass(frozen=True)
class Ended:
    """The exit codes of the ranks (-9: killed), their output, and the duration."""

    codes: tuple[int, ...]
    text: str
    seconds: float
    calls: list[dict[str, int]]  # of each moment by each rank; empty if a rank was ended

    @property
    def code(self) -> int:
        """The exit code of the command: the first that is not 0."""
        return next(filter(None, self.codes), 0)


@dataclass(frozen=True)
class Launch:
    """How a command line is run: in how many processes, and what happens to them."""

    num_ranks: int = 1
    signal_at: SignalAt | None = None
    signalled_rank: int = 0  # which rank receives `signal_at`
    kill_after_s: float | None = None  # kills all ranks, as when the machine loses power
    forget_optimizer: bool = False  # its state in `last.pt` is not loaded
    change: Callable[[], None] | None = None  # called in each new process before the command
    limits: dict[str, float] = field(default_factory=dict)  # time limits of the ranks: ANSWER_S, MEETING_S


def prepare(replace_by: Callable[[Any, str, Any], None], signal_at: SignalAt | None) -> dict[str, itertools.count[int]]:
    """Return a counter of calls per moment; `signal_at` determines the call at which the signal is sent.

    `replace_by` is a function like setattr; it also makes runs save after every step, write empty figures in this
    process, and know the model `made_up`.
    """
    models = Models.all_models() | {"made_up": replace(SPEC, defaults=MADE_UP)}
    replace_by(Models, "all_models", lambda: models)
    replace_by(Resume, "SECONDS_BETWEEN_SAVES", -1)
    replace_by(FitPhases, "SECONDS_BETWEEN_SAVES", -1)
    for owner, name, value in empty_figures():
        replace_by(owner, name, value)
    calls = {moment: itertools.count(1) for moment in MOMENTS}
    for moment, (owner, name) in MOMENTS.items():
        own_signal = signal_at if signal_at and signal_at.moment == moment else None
        replace_by(owner, name, _wrapped(getattr(owner, name), calls[moment], own_signal))
    return calls


def run_in_process(argv: Sequence[str | Path], log: Path, launch: Launch | None = None, **how: Any) -> Ended:
    """Return how `python Engine.py <argv>` ends, run as `launch` says, or `Launch(**how)`.

    The output of each rank goes to a file beside `log`. `last.pt` is written after every step. As torchrun does, the
    other ranks are terminated once one has failed.
    """
    launch = launch or Launch(**how)
    return run_ranks([argv] * launch.num_ranks, log, launch)


def run_ranks(argvs: Sequence[Sequence[str | Path]], log: Path, launch: Launch) -> Ended:
    """Return how the ranks end, each with its own command line; for `launch.num_ranks` of them."""
    started, store = time.monotonic(), _store(launch)
    logs = [log.with_name(f"{log.stem}-{rank}.txt") for rank in range(len(argvs))]
    processes = []
    for rank, argv in enumerate(argvs):
        words, environment = [str(word) for word in argv], _environment(rank, launch, store)
        processes.append(fork_server().Process(target=_command, args=(words, logs[rank], launch, environment)))
        processes[-1].start()
    _wait(processes, launch)
    codes = tuple(process.exitcode for process in processes)
    text = "".join(each.read_text(errors="replace") for each in logs if each.exists())
    counted = [each.with_suffix(".json") for each in logs]
    calls = [json.loads(each.read_text()) for each in counted] if not any(codes) else []
    for each in (*counted, *logs):
        each.unlink(missing_ok=True)
    assert None not in codes, f"{argvs} hangs: {text}"
    return Ended(codes, text, time.monotonic() - started, calls)  # type: ignore[arg-type]


def result(output: Path) -> dict[str, Any]:
    """Return all results of the newest run called `run`, except durations."""
    path = sorted(output.glob("[0-9]*-run"))[-1]
    model = torch.load(path / "model.pt", weights_only=True)
    metrics = json.loads((path / "metrics.json").read_text())
    del metrics["timing"]
    for step in metrics["next_steps"]:
        words = shlex.split(step["command"])
        step["command"] = [word.replace(str(path), "RUN").replace(str(path.parent), "OUTPUT") for word in words]
    runs = pd.read_csv(output / "runs.csv").drop(columns=["run", "seconds"])
    tables = ("predictions.csv", "splits.csv", "skipped.csv", "classes.txt")
    return {
        "weights": fingerprint(model["state_dict"]),
        "epoch": model["epoch"],
        "last state": fingerprint(torch.load(path / "last.pt", weights_only=True)),
        "history": pd.read_csv(path / "history.csv").drop(columns="seconds").to_csv(),
        "metrics": metrics,
        "runs": runs.to_csv(),
        "files": sorted(file.name for file in path.iterdir() if file.suffix != ".prev"),
    } | {name: (path / name).read_text() for name in tables}


def fingerprint(content: Any) -> str:
    """Return a hash of nested containers of tensors and plain values, without their durations (`seconds`)."""
    found = hashlib.sha256()

    def add(each: Any) -> None:
        if isinstance(each, torch.Tensor):
            found.update(f"{each.dtype} {tuple(each.shape)}".encode() + each.numpy().tobytes())
        elif isinstance(each, Mapping):
            for key in sorted(each, key=str):
                if key != "seconds":
                    found.update(repr(key).encode())
                    add(each[key])
        elif isinstance(each, (list, tuple)):
            found.update(str(len(each)).encode())
            for item in each:
                add(item)
        else:
            found.update(repr(each).encode())

    add(content)
    return found.hexdigest()


def _store(launch: Launch) -> Any:
    """Return the key-value store through which ranks meet: as under torchrun, no rank keeps it."""
    return dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if launch.num_ranks > 1 else None


def _environment(rank: int, launch: Launch, store: Any) -> dict[str, str]:
    """Return the variables that torchrun would set; none for a single process."""
    if store is None:
        return {}
    size, port = str(launch.num_ranks), str(store.port)
    about = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return about | {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}


def _wait(processes: list[Any], launch: Launch) -> None:
    """Wait until all ranks have ended; end them as `launch` says, or once one of them has failed."""
    if launch.kill_after_s is not None:
        multiprocessing.connection.wait([each.sentinel for each in processes], launch.kill_after_s)
        for process in processes:
            process.kill()
    deadline = time.monotonic() + TIME_LIMIT_S
    while (running := [each for each in processes if each.exitcode is None]) and time.monotonic() < deadline:
        multiprocessing.connection.wait([each.sentinel for each in running], deadline - time.monotonic())
        if any(each.exitcode for each in processes):
            break
    for send in ("terminate", "kill"):  # the others, if one has failed
        for process in processes:
            process.join(5)
            if process.exitcode is None:
                getattr(process, send)()
    for process in processes:
        process.join(5)


def _command(words: list[str], log: Path, launch: Launch, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # tqdm's own lock is a semaphore, which a killed process would leak
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1), os.dup2(handle, 2)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))
    ranks.__init__(environment)  # type: ignore[misc]
    RanksFile.ANSWER_S = launch.limits.get("ANSWER_S", RanksFile.ANSWER_S)
    Rendezvous.MEETING_S = launch.limits.get("MEETING_S", Rendezvous.MEETING_S)
    calls = prepare(setattr, launch.signal_at if ranks.rank == launch.signalled_rank else None)
    if launch.forget_optimizer:
        torch.optim.Optimizer.load_state_dict = lambda self, stored: None  # type: ignore[assignment,method-assign]
    if launch.change:
        launch.change()
    code = Engine.main(words)
    log.with_suffix(".json").write_text(json.dumps({moment: next(count) - 1 for moment, count in calls.items()}))
    sys.exit(code)


def _wrapped(
    function: Callable[..., Any], calls: itertools.count[int], signal_at: SignalAt | None
) -> Callable[..., Any]:
    def send() -> None:
        assert signal_at is not None
        for _ in range(signal_at.times):
            os.kill(os.getpid(), signal_at.signal)

    def wrapper(*args: Any, **named: Any) -> Any:
        number = next(calls)
        if signal_at is None or number != signal_at.number:
            return function(*args, **named)
        if signal_at.when == "before":
            send()
        if signal_at.when == "during":
            return _half_at_first(send, function, *args)
        result = function(*args, **named)
        if signal_at.when == "after":
            send()
        return result

    return wrapper


def _half_at_first(send: Callable[[], None], save: Callable[..., Any], content: object, file: BinaryIO) -> None:
    save(content, whole := io.BytesIO())
    middle = whole.tell() // 2
    file.write(whole.getvalue()[:middle])
    file.flush()
    send()
    file.write(whole.getvalue()[middle:])
