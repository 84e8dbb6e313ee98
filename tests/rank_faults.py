"""The command line with something wrong on rank 1: `torchrun ... rank_faults.py killed|elsewhere <argv>`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

import Engine
from MLPipeline import Resume

KILLED_AT = 9  # training steps of all epochs so far


def kill_in_a_step() -> None:
    """End this process in a training step, at the first start only."""
    taken, step = [], torch.optim.SGD.step

    def counted(self: torch.optim.SGD, closure: None = None) -> None:
        taken.append(1)
        if len(taken) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self)

    torch.optim.SGD.step = counted


def main(fault: str, argv: list[str]) -> int:
    is_wrong = os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    Resume.SECONDS_BETWEEN_SAVES = 0
    if is_wrong and fault == "killed":
        kill_in_a_step()
    if is_wrong and fault == "elsewhere":
        data = argv.index("--data") + 1
        argv[data] = str(Path(argv[data]).with_name("Others"))
    return Engine.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
