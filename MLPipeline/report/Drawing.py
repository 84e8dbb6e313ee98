"""Pictures are drawn beside the computing: in a process of its own, which never waits for torch to be loaded.

    drawing.begin()                                                    # returns at once
    drawing.draw("Plots.plot_history", table, folder / "history.png")  # so does this
    drawing.finish()                                                   # all are there, or an error says why not

Where there is no such process - none was begun, none could be, it ended early - the pictures are drawn here instead.
It ends with this one, in whatever way that ends, once it has drawn what it has to: its orders come through a pipe.
What is pickled travels between the two alone, and no file or network has a say in it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections import deque
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from MLPipeline.Errors import PipelineError

Order = tuple[str, tuple[Any, ...]]  # "file in this folder.function", arguments without tensors
_NO_MORE: Order = ("", ())

_PATIENCE_S = 5.0
_ROOT = Path(__file__).parents[2]
_SERVE = f"import sys; sys.path[0] = {str(_ROOT)!r}; from MLPipeline.report.Drawing import serve; serve()"


class Drawing:
    """The process that draws, and what it has been told to draw."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered: deque[Order] = deque()

    def begin(self) -> None:
        """Start the process, unless it is there."""
        if self._process is not None:
            return
        # A session of its own: Ctrl-C in the terminal is for this process, which then tells it.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        with contextlib.suppress(OSError, ValueError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=os.name == "posix",
                creationflags=group,
            )
            atexit.register(self.end)

    def draw(self, name: str, *arguments: object) -> None:
        """Have `Plots.plot_history`, say, called with `arguments`, the last of which is where to save; do not wait.

        Raises:
            ResourceError: drawn here, and the disk is full or the folder cannot be written.
        """
        order = (name, arguments)
        if self._process is None:
            _obey(order)
            return
        self._unanswered.append(order)
        try:
            pickle.dump(order, _pipe(self._process.stdin))
            _pipe(self._process.stdin).flush()
        except OSError:
            self._draw_here()

    def finish(self) -> None:
        """Wait until all that was ordered is drawn.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        errors = []
        while self._process and self._unanswered:
            try:
                errors.append(pickle.load(_pipe(self._process.stdout)))
                self._unanswered.popleft()
            except (OSError, EOFError, pickle.UnpicklingError):
                self._draw_here()
        for error in filter(None, errors):
            raise error

    def abandon(self) -> None:
        """Nobody will wait for what is still ordered: once this returns, nothing more is written."""
        if self._unanswered:
            self._unanswered.clear()
            self.end()

    def end(self) -> None:
        """End the process once it has drawn what it was told to: a run that is stopped leaves no file half-written."""
        if self._process is not None:
            atexit.unregister(self.end)
            try:
                self._process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None

    def _draw_here(self) -> None:
        """Draw what the process has left undone when it ended: the system may have been short of memory."""
        self.end()
        while self._unanswered:
            _obey(self._unanswered.popleft())


def serve() -> None:
    """Draw what comes through standard input, and answer to each order None or what went wrong; ends with the input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    orders: SimpleQueue[Order] = SimpleQueue()
    threading.Thread(target=_receive, args=(orders,), daemon=True).start()
    import_module("MLPipeline.report.ScorePlots")  # meanwhile
    with contextlib.suppress(BrokenPipeError):  # whoever ordered it is gone
        while (order := orders.get()) is not _NO_MORE:
            pickle.dump(_error_of(order), answers)
            answers.flush()
    os._exit(0)  # not a word about what could not be said


def _receive(orders: SimpleQueue[Order]) -> None:
    """Take orders as they come, so that nobody waits to give one."""
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the last one may have been cut off
        while True:
            orders.put(pickle.load(sys.stdin.buffer))
    orders.put(_NO_MORE)


def _obey(order: Order) -> None:
    name, arguments = order
    file, function = name.split(".")
    getattr(import_module(f"MLPipeline.report.{file}"), function)(*arguments)


def _error_of(order: Order) -> Exception | None:
    try:
        _obey(order)
    except (PipelineError, MemoryError) as error:
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())
    return None


def _pipe(stream: Any) -> BinaryIO:
    """Return a stream that `Popen` was asked for."""
    return stream


drawing = Drawing()
