"""The key-value store through which ranks find each other; torchrun keeps it, or else rank 0."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from MLPipeline.Errors import ResourceError

MEETING_S = 60.0  # time limit for all ranks to join
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1  # between looks at the store


class Board:
    """Short messages among the ranks of one launch; `store` is torch's."""

    def __init__(self, environment: Mapping[str, str], rank: int, size: int) -> None:
        """Open the store and wait for all ranks to join.

        Raises:
            ResourceError: a rank has not joined in time, or the port is in use.
        """
        import torch.distributed as dist

        self.rank = rank
        host, port = environment.get("MASTER_ADDR", "localhost"), int(environment.get("MASTER_PORT", 29500))
        is_ours = rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        limit = timedelta(seconds=MEETING_S)
        try:
            store = dist.TCPStore(host, port, is_master=is_ours, wait_for_workers=False, timeout=limit)
        except RuntimeError as error:
            if is_ours:
                raise ResourceError(f"port {port}: is in use", "Give another --master-port") from error
            what = f"rank 0 cannot be reached at {host}, port {port}, within {MEETING_S:.0f} s"
            raise ResourceError(what, "Start it too, or give its --master-addr and --master-port") from error
        self.store: Any = dist.PrefixStore(f"ranks/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        self.leave("here")
        if missing := self.missing("here", range(size), MEETING_S):
            what = f"{names(missing)} of {size} did not join within {MEETING_S:.0f} s"
            raise ResourceError(what, "See their output, or check that they were started on the other machines")

    def leave(self, word: str, message: bytes = b"") -> None:
        """Leave a message for the other ranks."""
        self.store.set(f"{word}/{self.rank}", message)

    def message(self, word: str, rank: int) -> bytes:
        """Return the message that `rank` has left."""
        return self.store.get(f"{word}/{rank}")

    def take_down(self, word: str) -> None:
        """Delete the message of this rank."""
        self.store.delete_key(f"{word}/{self.rank}")

    def missing(self, word: str, ranks: Sequence[int], seconds: float) -> list[int]:
        """Return those of `ranks` that have not left this message within `seconds`."""
        deadline, pause_s = time.monotonic() + seconds, _SHORTEST_PAUSE_S
        while True:
            missing = [rank for rank in ranks if not self.store.check([f"{word}/{rank}"])]
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def launch_name(environment: Mapping[str, str]) -> str:
    """Return a name shared by all restarts of one torchrun command; empty without torchrun."""
    name = environment.get("TORCHELASTIC_RUN_ID", "")
    # Without --rdzv-id, torchrun uses "none"; then the id of its process distinguishes it from others.
    return f"{socket.gethostname()} {os.getppid()}" if name == "none" else name


def names(ranks: Iterable[int]) -> str:
    """Return `rank 3`, or `ranks 3, 5`."""
    numbers = [str(rank) for rank in ranks]
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
