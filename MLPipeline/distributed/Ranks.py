"""Several processes that compute as one: `torchrun --nproc-per-node 2 Engine.py --model resnet50`.

torchrun starts the same command once per rank and passes the rank in the environment. The first rank of each machine
lists the images, for all ranks there (see `files/OncePerMachine`); every rank holds the whole model, and computes its
share of each batch. `ranks`, below, does all communication. A single process is a group of one, for which these
functions do nothing, so that there is one path for both.

Only rank 0 writes files and prints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from MLPipeline.distributed.Rendezvous import Board, launch_name, names
from MLPipeline.Errors import DataError, ResourceError, is_out_of_memory

_AT_ONCE = 64  # items that a rank sends to rank 0 at a time

if TYPE_CHECKING:  # imported in `meet`: the console needs the rank, and `--help` must not wait for torch
    import numpy as np
    from torch import Tensor

ANSWER_S = 600.0  # time limit of a collective operation
_PATIENCE_S = 20.0  # how long ranks wait for rank 0 when all stop; torchrun allows 30
_FAREWELL_S = 3.0  # for the ranks that are alive to say so when one does not answer

Item = TypeVar("Item")


class Ranks:
    """The group of processes and the rank of this one; a group of one until `meet` is called."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read torchrun's variables from the `environment`; without torchrun this is rank 0 of 1."""
        self.rank = int(environment.get("RANK", 0))
        self.local_rank = int(environment.get("LOCAL_RANK", 0))  # among those of this machine
        self.local_size = int(environment.get("LOCAL_WORLD_SIZE", 1))
        self.restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", 0))
        self.launch = launch_name(environment)
        self.size = 1
        self.batch_size = 0  # number of images in the current global batch
        self._environment = environment
        self._board: Board | None = None
        self._num_told = 0  # messages of the first rank of this machine

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    @property
    def num_here(self) -> int:
        """The number of ranks on this machine."""
        return self.local_size if self.size > 1 else 1

    @property
    def is_first_here(self) -> bool:
        """Whether this is the first rank of its machine."""
        return self.num_here == 1 or self.local_rank == 0

    def mine(self, number: int) -> slice:
        """Return this rank's contiguous share of `number` items; it is empty if there are too few."""
        rank = self.rank if self.size > 1 else 0
        return slice(number * rank // self.size, number * (rank + 1) // self.size)

    @property
    def dealt(self) -> slice:
        """This rank's items of a list that is distributed one by one, which balances the costs."""
        return slice(self.rank if self.size > 1 else 0, None, self.size)

    def meet(self, device_type: str) -> None:
        """Wait for all ranks and form the group, for tensors on the CPU or `device_type`.

        Raises:
            ResourceError: a rank has not joined in time, or the port is in use.
        """
        size = int(self._environment.get("WORLD_SIZE", 1))
        if size == 1 or self.size > 1:
            return
        import torch.distributed as dist

        self._board = Board(self._environment, self.rank, size)
        backend, limit = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo", timedelta(seconds=ANSWER_S)
        with self._together():
            dist.init_process_group(backend, timeout=limit, rank=self.rank, world_size=size, store=self._board.store)
        self.size = size

    def let_first_end(self) -> None:
        """Wait until rank 0 has saved its files: torchrun ends all ranks as soon as one has ended."""
        if self._board and self.is_first:
            self._board.leave("done")
        elif self._board:
            self._board.missing("done", [0], _PATIENCE_S)

    def leave(self) -> None:
        """Leave the group."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
            self.size = 1

    def reduce(self, tensor: Tensor, operation: str = "SUM") -> Tensor:
        """Return `tensor` (of equal shape on all ranks) after summing it over the ranks in place (or taking the `MAX`).

        Raises:
            ResourceError: a rank has ended or does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with self._together():
                dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        return tensor

    def sum(self, *numbers: float | Tensor) -> list[Any]:
        """Return each number summed over all ranks, as float64; with one process, the numbers unchanged."""
        if self.size == 1:
            return list(numbers)
        import torch

        return self.reduce(torch.tensor([float(number) for number in numbers], dtype=torch.float64)).tolist()

    def max(self, number: float) -> float:
        """Return the maximum over the ranks."""
        if self.size == 1:
            return number
        import torch

        return self.reduce(torch.tensor(number, dtype=torch.float64), "MAX").item()

    def share_numbers(self, numbers: np.ndarray) -> None:
        """Fill in `numbers`: each is known to one rank and -1 on the others."""
        if self.size > 1:
            import torch

            self.reduce(torch.from_numpy(numbers), "MAX")

    def merge(self, places: np.ndarray, rows: Tensor, number: int) -> Tensor:
        """Return all `number` rows (N, ...), of which this rank has those at `places`; with one process, `rows`."""
        if self.size == 1:
            return rows
        whole = rows.new_zeros(number, *rows.shape[1:])
        whole[places] = rows
        return self.reduce(whole)

    def gather(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in their order."""
        items: list[Any] = [item]
        if self.size > 1:
            import torch.distributed as dist

            items = [None] * self.size
            with self._together():
                dist.all_gather_object(items, item)
        return items

    def to_first(self, item: Item) -> list[Item]:
        """Return the items of all ranks, in their order, on rank 0; an empty list on the others."""
        items: list[Any] = [item]
        if self.size > 1:
            import torch.distributed as dist

            items = [None] * self.size if self.is_first else []
            with self._together():
                dist.gather_object(item, items or None)
        return items

    def in_order(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield on rank 0 the results of all ranks for `dealt` items, in the original order; nothing on the others."""
        remaining, at_once = iter(items), _AT_ONCE if self.size > 1 else 1
        while self.max(len(given := list(islice(remaining, at_once)))):
            for each in zip_longest(*self.to_first(given)):
                yield from (item for item in each if item is not None)

    def in_step(self, items: Iterable[Item], number: int, every: int, act: Callable[[], None]) -> Iterator[Item]:
        """Yield the `number` items of this rank; after `every` of them, all ranks `act` together.

        This keeps the ranks close together, so that none waits longer than the time limit.
        """
        num_acts = int(self.max(number)) // every
        for count, item in enumerate(items, start=1):
            yield item
            if count % every == 0:
                act()
        for _ in range(number // every, num_acts):
            act()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run the `with` block on rank 0 first, so that the others find the file that it has downloaded."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def from_first(self, item: Item) -> Item:
        """Return the item of rank 0."""
        items = [item]
        if self.size > 1:
            import torch.distributed as dist

            with self._together():
                dist.broadcast_object_list(items, src=0)
        return items[0]

    def from_first_here(self, message: bytes) -> bytes:
        """Return the message of the first rank of this machine; the others wait for it without a time limit.

        Messages go through the store, not by a collective operation, which ends after `ANSWER_S`.

        Raises:
            ResourceError: the store has ended, and with it the other ranks.
        """
        if self.num_here == 1:
            return message
        assert self._board is not None
        self._num_told += 1
        first, word = self.rank - self.local_rank, f"told/{self._num_told}"
        if self.is_first_here:
            self._board.leave(word, message)
            return message
        try:
            self._board.missing(word, [first], math.inf)
            return self._board.message(word, first)
        except RuntimeError as error:
            raise ResourceError(f"{names([first])}: ended", "See the messages above") from error

    def wait_for_others_here(self, seconds: float = ANSWER_S) -> None:
        """Wait until all ranks of this machine have used the last message of the first one; then it is deleted."""
        if self.num_here == 1:
            return
        assert self._board is not None
        word = f"used/{self._num_told}"
        if not self.is_first_here:
            self._board.leave(word)
            return
        self._board.missing(word, range(self.rank + 1, self.rank + self.num_here), seconds)
        self._board.take_down(f"told/{self._num_told}")

    def wait(self) -> None:
        """Wait for all ranks (a barrier)."""
        self.sum(0)

    def require_same(self, facts: Mapping[str, str]) -> None:
        """Check that `facts`, which maps names ("images") to hashes, are equal on all ranks.

        Raises:
            DataError: they are not.
        """
        everyone = self.gather(dict(facts))
        for name in facts:
            others = [rank for rank, theirs in enumerate(everyone) if theirs[name] != everyone[0][name]]
            if others:
                hint = "Start the same command on all machines, with --data and --output on storage that they share"
                raise DataError(f"{names(others)}: not the same {name} as rank 0", hint)

    def require_shared(self, folder: Path) -> None:
        """Check that all ranks see what rank 0 writes to `folder`.

        Raises:
            DataError: they do not.
        """
        if self.size == 1:
            return
        mark = folder / f".{self.from_first(os.urandom(8).hex())}"
        if self.is_first:
            mark.touch()
        self.wait()
        blind = [rank for rank, sees in enumerate(self.gather(mark.exists())) if not sees]
        if self.is_first:
            mark.unlink()
        if blind:
            hint = "Give an --output on storage that all machines share; if their processors differ, --precision fp32"
            raise DataError(f"{folder}: {names(blind)} cannot see what rank 0 writes there", hint)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn a failed collective operation into an error that names the ranks that have ended."""
        try:
            yield
        except RuntimeError as error:  # the type of all errors of gloo, NCCL and the store
            if is_out_of_memory(error):
                raise
            assert self._board is not None
            self._board.leave("alive")
            gone = self._board.missing("alive", range(self.size), _FAREWELL_S)
            who = names(gone) if gone else "the network"
            what = f"{who}: ended, or gave no answer within {ANSWER_S:.0f} s"
            raise ResourceError(what, "See the messages above; --resume RUN continues the run") from error


ranks = Ranks(os.environ)  # a process belongs to one group at most
