"""Processes items in threads, ahead of their use, and yields the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.Machine import container_memory, num_cores

AHEAD_PER_THREAD = 8  # items processed ahead of their use: hides disk latency and limits memory
_BYTES_PER_THREAD = 2**28  # of a container's memory: a photograph of 50 megapixels while it is decoded

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[Iterable[Item], str, int], Iterable[Item]]  # items, label, total


def no_progress(items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
    """Return `items` unchanged: no progress bar."""
    return items


def read_ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `work(item)` for each of `items` in order, computed ahead by `workers` threads."""
    ahead: deque[Future[Result]] = deque()
    todo = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead.extend(pool.submit(work, item) for item in islice(todo, workers * AHEAD_PER_THREAD))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def decoding_threads(workers: int | None) -> int:
    """Return the number of decoding threads: `workers` if given, else the cores divided by the local ranks.

    A container with little memory gets fewer.
    """
    if workers:
        return workers
    threads, memory = num_cores() // ranks.local_size, container_memory()
    if memory:
        threads = min(threads, memory // ranks.local_size // _BYTES_PER_THREAD)
    return max(1, threads)
