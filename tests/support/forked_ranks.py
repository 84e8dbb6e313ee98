"""Two ranks under torchrun's agent, forked from a process that has imported everything.

`torchrun` starts one new interpreter for itself and one for each rank, and each of them imports torch; this takes most
of the time of a small training. Here, torchrun's own agent (which starts, watches, restarts and stops the ranks) forks
them instead. tests/test_ReadmeRuns.py also runs the command line `torchrun`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from MLPipeline.distributed.Ranks import ranks
from tests.support import rank_faults
from tests.support.fork_server import fork_server
from tests.support.harness import blank_figures

_TIMEOUT_S = 300


@dataclass(frozen=True)
class Launch:
    """Two ranks that were started; `out` and `err` are the files with their output."""

    process: BaseProcess
    out: Path
    err: Path

    def wait(self) -> tuple[int, str, str]:
        """Return exit code, output and errors when all ranks have ended."""
        self.process.join(_TIMEOUT_S)
        assert self.process.exitcode is not None, f"hangs: {self.err.read_text()}"
        return self.process.exitcode, self.out.read_text(), self.err.read_text()

    def wait_for(self, start: str) -> None:
        """Wait until a line of the output begins with `start`."""
        limit = time.monotonic() + _TIMEOUT_S
        while not any(line.startswith(start) for line in self.out.read_text().splitlines()):
            assert self.process.is_alive() and time.monotonic() < limit, self.err.read_text()
            time.sleep(0.01)

    def terminate(self) -> None:
        """Send SIGTERM to torchrun's agent."""
        os.kill(self.process.pid, signal.SIGTERM)


def launch(argv: list[str | Path], folder: Path, fault: str = "", max_restarts: int = 0) -> Launch:
    """Start `torchrun --nproc-per-node 2 Engine.py <argv>` in `folder`, with a `fault` of rank_faults on rank 1."""
    out, err = folder / "out.txt", folder / "err.txt"
    words = [str(word) for word in argv]
    process = fork_server().Process(target=_agent, args=(words, fault, max_restarts, folder))
    out.write_text(""), err.write_text("")
    process.start()
    return Launch(process, out, err)


def _agent(words: list[str], fault: str, max_restarts: int, folder: Path) -> None:
    os.chdir(folder)
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False, buffering=1) for stream in (1, 2))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        start_method="fork",
    )
    try:
        elastic_launch(config, _rank)(words, fault)
    except ChildFailedError as error:
        sys.exit(str(error))


def _rank(words: list[str], fault: str) -> None:
    torch.set_num_threads(1)
    ranks.__init__(os.environ)
    with blank_figures():
        sys.exit(rank_faults.main(fault, words))
