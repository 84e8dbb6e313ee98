"""Signals that stop a command: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), the notices of a cluster's time limit.

The first signal takes effect at the end of the training step, so that the saved state is complete, or at once where
nothing is being trained. A step that takes longer than `GRACE_S` is interrupted. Python runs signal handlers only
between its own instructions, so a long call of a library delays them; a thread therefore ends the process `LIMIT_S`
after the signal, whatever it is doing. Files are written atomically: what was saved before is complete.

SIGUSR1 and SIGUSR2 are what Slurm and others send before the time limit (`--signal=USR1@120`), SIGXCPU comes from the
kernel at a limit of processor time. They stop the command too, as they would without a handler; then it can be resumed.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from MLPipeline.distributed.Ranks import ranks

GRACE_S = 4.0  # that a training step may take after the signal
LIMIT_S = 8.0  # from the signal to the end of the process; 10 s are promised
_LAST_WORDS_S = 0.5  # for messages to a console that may block
_SHORTEST_S, _CLOSED = 1e-3, 0

_NAMES = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
STOPPING = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)  # Windows has few
# A second one of these asks for more haste. The others are sent several times for one reason: SIGHUP by the shell and
# by the kernel, SIGXCPU every second.
_INSISTENT = [signum for signum in STOPPING if signum.name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK")]

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """The command was stopped by a signal; `exit_code` is the shell's code for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopSignals:
    """Turns signals into `Interrupted`: at once, or in a `deferred` block when `check` is called.

    A second SIGINT, SIGTERM or SIGQUIT takes effect at once, and a third one ends the process without cleaning up.
    Signals that were ignored when the command was started stay ignored (`nohup`, background jobs of a shell).
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}  # signal -> handler before `install`
        self._last_acts: list[Callable[[], None]] = []
        self._watch: _Watch | None = None
        self._reset()

    def _reset(self) -> None:
        self._is_deferred = self._is_answered = self._is_overdue = self._is_final = False
        self._came: int | None = None

    def install(self, *last_acts: Callable[[], None]) -> None:
        """Install the handlers; `last_acts` are called if the process must be ended while it is busy."""
        self.uninstall()
        self._reset()
        self._last_acts = list(last_acts)
        self._watch = _Watch(self._interrupt_step, self._end_process)
        for signum in STOPPING:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._receive)

    def uninstall(self) -> None:
        """Restore the handlers that were there before `install`."""
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
        if self._watch:
            self._watch.close()
            self._watch = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside the block, let signals wait until `check` is called, for `GRACE_S` at most."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    @contextmanager
    def last_act(self, act: Callable[[], None]) -> Iterator[None]:
        """Inside the block, call `act` as well if the process must be ended while it is busy."""
        self._last_acts.append(act)
        try:
            yield
        finally:
            self._last_acts.remove(act)

    def check(self) -> None:
        """Raise `Interrupted` if a signal is waiting on any rank, so that all ranks stop after the same step."""
        if came := int(ranks.max(self._came or 0)):
            self._is_answered = True  # the state is saved next, which may take longer than a step
            raise Interrupted(came)

    def finish(self) -> None:
        """Let further signals end the process at once: only cleaning up is left to do."""
        self._is_final = True

    def _receive(self, signum: int, frame: object) -> NoReturn | None:
        if self._is_final:
            self._end_process(signum)
        if self._came is not None and signum not in _INSISTENT and not self._is_overdue:
            return None
        is_first, self._came = self._came is None, self._came or signum
        if self._is_deferred and is_first:
            return None
        raise Interrupted(signum)

    def _interrupt_step(self) -> int | None:
        """End a deferred block that has not reached `check`; return the signal that this sends to the main thread."""
        if self._came is None or not self._is_deferred or self._is_answered:
            return None
        _briefly(lambda: logger.warning("the training step takes longer than %g s: it is interrupted", GRACE_S))
        self._is_overdue = True
        _thread.interrupt_main(signal.Signals(self._came))
        return self._came

    def _end_process(self, signum: int) -> NoReturn:
        """End the process from any thread, after the last acts, for which there is little time."""
        _briefly(self._act)
        os._exit(128 + signum)

    def _act(self) -> None:
        if not self._is_final:
            logger.warning("the command is ended while it is busy")
        for act in self._last_acts:
            act()


class _Watch:
    """A thread that is woken by a signal even while the main thread is inside a library.

    `interrupt_step` is called `GRACE_S` after the first signal, `end_process` with that signal `LIMIT_S` after it, or
    when a third one asks for haste.
    """

    def __init__(self, interrupt_step: Callable[[], int | None], end_process: Callable[[int], NoReturn]) -> None:
        self._interrupt_step, self._end_process = interrupt_step, end_process
        self._reader, self._writer = socket.socketpair()  # Windows accepts no pipe
        self._writer.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        signal.set_wakeup_fd(self._previous)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while (first := self._next()) not in (_CLOSED, *STOPPING):
            pass
        if first and first in STOPPING:
            self._count_down(first)

    def _count_down(self, first: int) -> None:
        """Interrupt the step, then end the process when the time is over, unless the command ends before."""
        start, own, has_grace, num_insistent = time.monotonic(), None, True, int(first in _INSISTENT)
        while num_insistent < 3:
            signum = self._next(start + (GRACE_S if has_grace else LIMIT_S))
            if signum == _CLOSED:
                return
            if signum is not None:
                num_insistent += signum in _INSISTENT and signum != own
                own = None if signum == own else own
            elif has_grace:
                own, has_grace = self._interrupt_step(), False
            else:
                break
        self._end_process(first)

    def _next(self, until: float | None = None) -> int | None:
        """Return the next signal, `_CLOSED` after `close`, or None if there is none `until` this time (monotonic)."""
        self._reader.settimeout(None if until is None else max(_SHORTEST_S, until - time.monotonic()))
        try:
            return (self._reader.recv(1) or bytes([_CLOSED]))[0]
        except TimeoutError:
            return None


def _briefly(act: Callable[[], None]) -> None:
    """Call `act` in a thread of its own, and wait for a short time only: a console may block."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(_LAST_WORDS_S)


stop_signals = StopSignals()  # a process has one set of signals
