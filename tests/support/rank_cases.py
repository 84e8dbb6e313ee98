"""Several ranks for tests: forked processes that run one function, without torchrun."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from MLPipeline.distributed import Ranks as RanksFile
from MLPipeline.distributed.Ranks import Ranks, ranks
from MLPipeline.Errors import DataError, ResourceError
from tests.support.fork_server import fork_server


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def together(
    size: int, work: Callable[[], Any], folder: Path, answer_s: float = 600.0, local: bool = False
) -> list[Any]:
    """Run `work` (a module-level function) on `size` ranks at once; return the results of surviving ranks, in order.

    With `local`, they know that they are on one machine.
    """
    fork_server()
    about = (size, free_port(), work, folder, answer_s, local)
    torch.multiprocessing.start_processes(_rank, about, nprocs=size, start_method="forkserver")
    return [torch.load(each, weights_only=False) for each in sorted(folder.glob("*.pt"))]


def _rank(rank: int, size: int, port: int, work: Callable[[], Any], folder: Path, answer_s: float, local: bool) -> None:
    torch.set_num_threads(1)
    RanksFile.ANSWER_S = answer_s
    about = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    about |= {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size} if local else {}
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
