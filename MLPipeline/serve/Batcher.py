"""Micro-batching: images that arrive together share one pass of the model, and a lone one is answered at once.

    with Batcher(classifier) as batcher:
        answer = batcher.submit(file.read()).result()        # from any thread; `asyncio.wrap_future` awaits it

Threads decode; one thread runs the model, which uses all cores. While it is busy, images wait and form the next batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Self

from MLPipeline.Errors import ResourceError
from MLPipeline.images.GivenImages import Ready
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.Predict import Answer, ImageClassifier

MAX_WAITING = 256  # images that are not answered yet
_GATHER_S = 0.01  # that a decoded image waits at most for those that are still being decoded


@dataclass(eq=False)
class _Job:
    """An image that was submitted, and the answer that its sender waits for."""

    data: bytes
    topk: int
    with_heat: bool
    future: Future[Answer] = field(default_factory=Future)
    ready: Ready | None = None


class Batcher:
    """Answers images in batches; see the top of this file."""

    def __init__(
        self,
        classifier: ImageClassifier,
        workers: int | None = None,
        max_waiting: int = MAX_WAITING,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the threads: `workers` decode. `observe` is called with the size of each batch."""
        self._classifier, self._max_waiting, self._observe = classifier, max_waiting, observe
        self._batch_size = classifier.images_at_once
        self._decoded: deque[_Job] = deque()
        self._num_waiting = self._num_undecoded = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(decoding_threads(workers), thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """How many images are not answered yet."""
        return self._num_waiting

    def submit(self, data: bytes, topk: int = 5, with_heat: bool = False) -> Future[Answer]:
        """Return the answer to come for the image file with the bytes `data`; `submit_all` for several."""
        return self.submit_all([data], topk, with_heat)[0]

    def submit_all(self, images: Sequence[bytes], topk: int = 5, with_heat: bool = False) -> list[Future[Answer]]:
        """Return the answers to come; an image whose future is cancelled is left out.

        Raises:
            ResourceError: too many images wait already; none of these is accepted.
        """
        jobs = [_Job(data, topk, with_heat) for data in images]
        with self._changed:
            if self._is_closed or self._num_waiting + len(jobs) > self._max_waiting:
                raise ResourceError(f"busy: {self._num_waiting} images are waiting", "Try again in a second")
            self._num_waiting += len(jobs)
            self._num_undecoded += len(jobs)
        for job in jobs:
            job.future.add_done_callback(self._count_down)
            self._pool.submit(self._decode, job)
        return [job.future for job in jobs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Answer what has been decoded, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _count_down(self, future: Future[Answer]) -> None:
        with self._changed:
            self._num_waiting -= 1

    def _decode(self, job: _Job) -> None:
        try:
            if not job.future.cancelled():
                job.ready = self._classifier.prepare(job.data)
        except Exception as error:
            _fail([job], error)
        job.data = b""
        with self._changed:
            self._num_undecoded -= 1
            if job.ready is not None:
                self._decoded.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        while self._answer_batch():
            pass  # no variable of this thread keeps the images of a batch while it waits for the next one

    def _answer_batch(self) -> bool:
        """Answer the next batch; return whether there was one."""
        batch = self._next_batch()
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        for with_heat, alike in groupby(sorted(jobs, key=_wants_heat), key=_wants_heat):
            self._answer(list(alike), with_heat)
        return bool(batch)

    def _next_batch(self) -> list[_Job]:
        """Return the images that are decoded, as soon as there is one and the rest have had a moment; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._decoded or self._is_closed)
            self._changed.wait_for(
                lambda: not self._num_undecoded or len(self._decoded) >= self._batch_size or self._is_closed, _GATHER_S
            )
            return [self._decoded.popleft() for _ in range(min(len(self._decoded), self._batch_size))]

    def _answer(self, jobs: list[_Job], with_heat: bool) -> None:
        ready = [job.ready for job in jobs if job.ready is not None]
        self._observe(len(jobs))
        try:
            answers = list(self._classifier.answer(ready, max(job.topk for job in jobs), with_heat))
        except Exception as error:
            _fail(jobs, error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)


def _wants_heat(job: _Job) -> bool:
    return job.with_heat


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        with contextlib.suppress(Exception):  # it was cancelled in the meantime
            job.future.set_exception(error)
