"""Micro-batching: images that arrive together share one pass of the model, and a lone one is answered at once.

    with Batcher(classifier) as batcher:
        answer = batcher.submit(file.read()).result()        # from any thread; `asyncio.wrap_future` awaits it

Threads decode the images. On a CPU, every core then runs a batch of its own, as in `FastForward.map`. A batch takes the
same time however few images it has, so a few are answered image by image: with all cores if they are idle.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Self

import torch

from MLPipeline.Device import start_threads
from MLPipeline.Errors import ResourceError, is_out_of_memory, out_of_memory
from MLPipeline.images.GivenImages import Ready
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.Predict import Answer, ImageClassifier

MAX_WAITING = 256  # images that are not answered yet
_GATHER_S = 0.02  # that a decoded image waits for others: those being decoded, and those of clients just answered


@dataclass(eq=False)
class _Job:
    """An image that was submitted, and the answer that its client waits for."""

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
        is_cpu = classifier.device == "cpu"
        self._batch_size = classifier.batch_size
        self._few = classifier.num_alone if is_cpu else 0
        self._num_streams = torch.get_num_threads() if is_cpu else 1
        self._decoded: deque[_Job] = deque()
        self._num_waiting = self._num_undecoded = self._num_running = 0
        self._more_until = 0.0  # monotonic time until which more images are likely to come
        self._is_closed = False
        self._changed, self._drawing = threading.Condition(), threading.Lock()
        self._decoders = ThreadPoolExecutor(decoding_threads(workers), thread_name_prefix="decode")
        self._streams = start_threads(self._num_streams)
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
            self._decoders.submit(self._decode, job)
        return [job.future for job in jobs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Answer what has been decoded, and end the threads."""
        self._decoders.shutdown(cancel_futures=True)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._streams.shutdown()

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
        while self._start_batch():
            pass  # no variable of this thread keeps the images of a batch while it waits for the next one

    def _start_batch(self) -> bool:
        """Answer the next image with all cores, or hand the next images to a stream; return False at the end."""
        with self._changed:
            self._changed.wait_for(self._can_go_on)
            self._gather()
            is_alone = len(self._decoded) <= self._few and not self._num_running
            size = min(len(self._decoded), 1 if is_alone else self._batch_size)
            jobs = [self._decoded.popleft() for _ in range(size)]
            self._num_running += not is_alone and bool(jobs)
        if is_alone:
            self._answer(jobs)
        elif jobs:
            self._streams.submit(self._answer_in_stream, jobs)
        return bool(jobs)

    def _can_go_on(self) -> bool:
        return self._num_running < self._num_streams if self._decoded else self._is_closed

    def _gather(self) -> None:
        """Wait for more images if they are likely to come, at most until the batch is full."""
        started = time.monotonic()
        while self._decoded and len(self._decoded) < self._batch_size and not self._is_closed:
            until = max(self._more_until, started + _GATHER_S if self._num_undecoded else 0)
            if (left := until - time.monotonic()) <= 0:
                return
            self._changed.wait(left)

    def _answer_in_stream(self, jobs: list[_Job]) -> None:
        try:
            self._answer(jobs)
        finally:
            with self._changed:
                self._num_running -= 1
                if len(jobs) > self._few:
                    self._more_until = time.monotonic() + _GATHER_S
                self._changed.notify_all()

    def _answer(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        for with_heat, alike in groupby(sorted(jobs, key=_wants_heat), key=_wants_heat):
            group = list(alike)
            size = self._batch_size if len(group) > self._few else 1
            for first in range(0, len(group), size):
                self._pass(group[first : first + size], with_heat)

    def _pass(self, jobs: list[_Job], with_heat: bool) -> None:
        """Set the answers of `jobs`, from one pass of the model."""
        ready = [job.ready for job in jobs if job.ready is not None]
        self._observe(len(jobs))
        try:
            with self._drawing if with_heat else contextlib.nullcontext():
                answers = list(self._classifier.answer(ready, max(job.topk for job in jobs), with_heat))
        except Exception as error:
            _fail(jobs, error)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(replace(answer, top=answer.top[: job.topk]))


def _wants_heat(job: _Job) -> bool:
    return job.with_heat


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    if is_out_of_memory(error):
        error = out_of_memory(error, "while an image was classified", "Try again when less is asked")
    for job in jobs:
        with contextlib.suppress(InvalidStateError):  # its client has disconnected in the meantime
            job.future.set_exception(error)
