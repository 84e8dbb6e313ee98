"""Ctrl-C and SIGTERM: a first one waits for the end of the training step, so that what is saved is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from MLPipeline.distributed.Ranks import ranks


class Interrupted(KeyboardInterrupt):
    """The run was told to stop; `exit_code` is what the shell expects of it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopSignals:
    """Turns SIGINT and SIGTERM into `Interrupted`: at once, or in a `deferred` block when `check` is called.

    A second signal is obeyed at once, wherever it comes.
    """

    def __init__(self) -> None:
        self._is_deferred = False
        self._came: int | None = None

    def install(self) -> None:
        """Take over both signals of this process."""
        self._came = None
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._receive)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait for `check` inside the block."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal is waiting, on any rank: all stop after the same step."""
        if came := int(ranks.max(self._came or 0)):
            raise Interrupted(came)

    def _receive(self, signum: int, frame: object) -> NoReturn | None:
        if self._is_deferred and self._came is None:
            self._came = signum
            return None
        raise Interrupted(signum)


stop_signals = StopSignals()  # a process has one set of signals
