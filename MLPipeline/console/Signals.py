"""Ctrl-C and SIGTERM: the first takes effect at the end of the training step, so that the saved state is complete."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from MLPipeline.distributed.Ranks import ranks


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal; `exit_code` is the shell's code for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopSignals:
    """Turns SIGINT and SIGTERM into `Interrupted`: at once, or in a `deferred` block when `check` is called.

    A second signal always takes effect at once.
    """

    def __init__(self) -> None:
        self._is_deferred = False
        self._came: int | None = None

    def install(self) -> None:
        """Install the handlers for both signals."""
        self._came = None
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._receive)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block, let signals wait until `check` is called."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal is waiting on any rank, so that all ranks stop after the same step."""
        if came := int(ranks.max(self._came or 0)):
            raise Interrupted(came)

    def _receive(self, signum: int, frame: object) -> NoReturn | None:
        if self._is_deferred and self._came is None:
            self._came = signum
            return None
        raise Interrupted(signum)


stop_signals = StopSignals()  # a process has one set of signals
