"""The command line of one rank, with a fault on rank 1: `killed`, `diverged` or `elsewhere`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

import Engine
from MLPipeline import Train
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.training import Resume

FAILS_AT = 9  # training step, counted over all epochs


def kill_in_a_step() -> None:
    """Kill this process in a training step, only on its first start."""
    taken, step = [], torch.optim.SGD.step

    def counted(self: torch.optim.SGD, closure: None = None) -> None:
        taken.append(1)
        if len(taken) == FAILS_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self)

    torch.optim.SGD.step = counted


def lose_the_loss() -> None:
    """Make the loss non-finite from a certain training step on."""
    taken, cross_entropy = [], Train.cross_entropy

    def failing(*given: Any, **more: Any) -> torch.Tensor:
        taken.append(1)
        return cross_entropy(*given, **more) * (float("nan") if len(taken) >= FAILS_AT else 1)

    Train.cross_entropy = failing


def main(fault: str, argv: list[str]) -> int:
    """Return the exit code of `Engine.py <argv>` on this rank; with a `fault`, the run is saved after every step."""
    is_wrong = os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if fault:
        Resume.SECONDS_BETWEEN_SAVES = 0
    if is_wrong and fault == "killed":
        kill_in_a_step()
    if is_wrong and fault == "diverged":
        lose_the_loss()
    if fault == "elsewhere":  # on two machines: the ranks of one list the images together
        ranks.local_rank, ranks.local_size = 0, 1
    if is_wrong and fault == "elsewhere":
        data = argv.index("--data") + 1
        argv[data] = str(Path(argv[data]).with_name("Others"))
    return Engine.main(argv)
