"""Several ranks for tests: as processes that import only torch, or as the command line under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from MLPipeline.distributed import Ranks as RanksFile
from MLPipeline.distributed.Ranks import Ranks, ranks
from MLPipeline.Errors import DataError, ResourceError
from tests.support.paths import ROOT


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def together(size: int, work: Callable[[], Any], folder: Path, answer_s: float = 600.0) -> list[Any]:
    """Run `work` (a module-level function) on `size` ranks at once; return the results of surviving ranks, in order."""
    multiprocessing.spawn(_rank, (size, free_port(), work, folder, answer_s), nprocs=size)
    return [torch.load(each, weights_only=False) for each in sorted(folder.glob("*.pt"))]


def _rank(rank: int, size: int, port: int, work: Callable[[], Any], folder: Path, answer_s: float) -> None:
    torch.set_num_threads(1)
    RanksFile.ANSWER_S = answer_s
    about = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks.__init__({name: str(value) for name, value in about.items()})
    ranks.meet("cpu")
    torch.save(work(), folder / f"{rank}.pt")
    ranks.leave()


def alone(**about: object) -> Ranks:
    """Return a rank as torchrun would start it with this environment."""
    return Ranks({name: str(value) for name, value in about.items()})


def refused(work: Callable[[], object]) -> str:
    """Return the message of the error that `work` raises, or `nothing`."""
    try:
        work()
    except (DataError, ResourceError) as error:
        return str(error)
    return "nothing"


def torchrun(argv: list[str | Path], flags: list[str] = (), script: Path | None = None) -> subprocess.Popen[str]:
    """Start `torchrun --nproc-per-node 2 Engine.py <argv>`, or another script in place of Engine.py."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    # The two dashes keep torchrun from reading our --run as an abbreviation of one of its own flags.
    words = [str(word) for word in (*command, *flags, "--", script or ROOT / "Engine.py", *argv)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=ROOT)
