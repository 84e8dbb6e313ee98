"""Several processes that compute as one: `torchrun --nproc-per-node 2 Engine.py --model resnet50`.

torchrun starts the same command once per rank and tells each in the environment which one it is. Every rank scans the
folders, holds the whole model, and computes its share of each batch; what has to be known of the whole goes through
`ranks`, below. One process alone is a group of one, for which all of that is nothing: there is one path for both.

Rank 0 alone writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from MLPipeline.distributed.Rendezvous import Board, launch_name, names
from MLPipeline.Errors import DataError, ResourceError

_AT_ONCE = 64  # answers of a rank sent to rank 0

if TYPE_CHECKING:  # torch is imported where ranks meet: the console asks for its rank, and `--help` must not wait
    import numpy as np
    from torch import Tensor

ANSWER_S = 600.0  # for all ranks to come to the same place
_PATIENCE_S = 20.0  # with rank 0 when all are to stop; torchrun gives 30
_FAREWELL_S = 3.0  # for those that are alive to say so, once one does not answer

Item = TypeVar("Item")


class Ranks:
    """The processes that compute together, and which of them this is; a group of one until `meet` is called."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take what torchrun says in the `environment`; without torchrun this is rank 0 of 1."""
        self.rank = int(environment.get("RANK", 0))
        self.local_rank = int(environment.get("LOCAL_RANK", 0))  # among those of this machine
        self.local_size = int(environment.get("LOCAL_WORLD_SIZE", 1))
        self.restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", 0))
        self.launch = launch_name(environment)
        self.size = 1
        self.batch_size = 0  # images that all ranks together have in the training step under way
        self._environment = environment
        self._board: Board | None = None

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that writes and speaks."""
        return self.rank == 0

    def mine(self, number: int) -> slice:
        """Return which of `number` things, dealt out evenly in order, are this rank's; none, if they are too few."""
        rank = self.rank if self.size > 1 else 0
        return slice(number * rank // self.size, number * (rank + 1) // self.size)

    @property
    def dealt(self) -> slice:
        """Which things of a list are this rank's, if they are dealt out one by one: costs even out."""
        return slice(self.rank if self.size > 1 else 0, None, self.size)

    def meet(self, device_type: str) -> None:
        """Wait for all ranks to be here; from now on they are one group, whose tensors lie on CPU or `device_type`.

        Raises:
            ResourceError: a rank has not come in time, or the port is taken.
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
        """Wait until rank 0, which is here last, has saved what it has to: torchrun ends all once one rank is gone."""
        if self._board and self.is_first:
            self._board.leave("done")
        elif self._board:
            self._board.missing("done", [0], _PATIENCE_S)

    def leave(self) -> None:
        """Leave the group; the others can go on by themselves."""
        if self.size > 1:
            import torch.distributed as dist

            dist.destroy_process_group()
            self.size = 1

    def reduce(self, tensor: Tensor, operation: str = "SUM") -> Tensor:
        """Return `tensor` (of one shape on all ranks) after its elements were summed over the ranks (or their `MAX`).

        Raises:
            ResourceError: a rank has ended or does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with self._together():
                dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        return tensor

    def sum(self, *numbers: float | Tensor) -> list[Any]:
        """Return each number summed over all ranks, as float64; on one process the very numbers."""
        if self.size == 1:
            return list(numbers)
        import torch

        return self.reduce(torch.tensor([float(number) for number in numbers], dtype=torch.float64)).tolist()

    def max(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        import torch

        return self.reduce(torch.tensor(number, dtype=torch.float64), "MAX").item()

    def share_numbers(self, numbers: np.ndarray) -> None:
        """Fill in, for each of `numbers`, what one rank knows and the others have as -1."""
        if self.size > 1:
            import torch

            self.reduce(torch.from_numpy(numbers), "MAX")

    def merge(self, places: np.ndarray, rows: Tensor, number: int) -> Tensor:
        """Return all `number` rows (N, ...), of which this rank gives those at `places`; on one process, its rows."""
        if self.size == 1:
            return rows
        whole = rows.new_zeros(number, *rows.shape[1:])
        whole[places] = rows
        return self.reduce(whole)

    def gather(self, item: Item) -> list[Item]:
        """Return what all ranks have given, in their order."""
        items: list[Any] = [item]
        if self.size > 1:
            import torch.distributed as dist

            items = [None] * self.size
            with self._together():
                dist.all_gather_object(items, item)
        return items

    def to_first(self, item: Item) -> list[Item]:
        """Return what all ranks have given, in their order, on rank 0; elsewhere nothing."""
        items: list[Any] = [item]
        if self.size > 1:
            import torch.distributed as dist

            items = [None] * self.size if self.is_first else []
            with self._together():
                dist.gather_object(item, items or None)
        return items

    def in_order(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield on rank 0 what all ranks make of what was `dealt`, in its order, as it comes; elsewhere nothing."""
        remaining, at_once = iter(items), _AT_ONCE if self.size > 1 else 1
        while self.max(len(given := list(islice(remaining, at_once)))):
            for each in zip_longest(*self.to_first(given)):
                yield from (item for item in each if item is not None)

    def in_step(self, items: Iterable[Item], number: int, every: int, act: Callable[[], None]) -> Iterator[Item]:
        """Yield the `number` items of this rank; after every so many, let all ranks `act` together.

        So none gets far ahead of the others, and waits for them longer than is allowed.
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
        """Let rank 0 through the `with` block before the others, which then find the file it has fetched."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def from_first(self, item: Item) -> Item:
        """Return what rank 0 has given."""
        items = [item]
        if self.size > 1:
            import torch.distributed as dist

            with self._together():
                dist.broadcast_object_list(items, src=0)
        return items[0]

    def wait(self) -> None:
        """Wait for all ranks to come here."""
        self.sum(0)

    def require_same(self, facts: Mapping[str, str]) -> None:
        """Make sure that all ranks see the same; `facts` maps names ("images") to hashes.

        Raises:
            DataError: they do not.
        """
        everyone = self.gather(dict(facts))
        for name in facts:
            others = [rank for rank, theirs in enumerate(everyone) if theirs[name] != everyone[0][name]]
            if others:
                hint = "Start the same command on all machines, with --data and --output on storage that they share"
                raise DataError(f"{names(others)}: not the same {name} as rank 0", hint)

    def require_shared(self, folder: Path) -> None:
        """Make sure that what rank 0 writes into `folder` is seen by all.

        Raises:
            DataError: it is not.
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
        """Name the ranks that are gone, where the others wait for them in vain."""
        try:
            yield
        except RuntimeError as error:  # gloo's errors, NCCL's and the store's all are
            assert self._board is not None
            self._board.leave("alive")
            gone = self._board.missing("alive", range(self.size), _FAREWELL_S)
            who = names(gone) if gone else "the network"
            what = f"{who}: ended, or gave no answer within {ANSWER_S:.0f} s"
            raise ResourceError(what, "See what was said before; --resume RUN goes on where the run stood") from error


ranks = Ranks(os.environ)  # a process is in one group at most
