"""Draws pictures in a separate process, in parallel with the computation and without importing torch.

    drawing.begin()                                                    # returns at once
    drawing.draw("Plots.plot_history", table, folder / "history.png")  # so does this
    photos = drawing.ask("Thumbnails.take_photos", paths)              # and this
    photos.result()                                                    # what the function has returned
    drawing.finish()                                                   # waits until all are drawn

Without that process (not begun, not possible, or ended early) the pictures are drawn in this one. It receives its
tasks through a pipe, and ends, once they are done, when this process ends for whatever reason. Pickled data only
passes between these two processes, never through a file or the network.
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
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from MLPipeline.Errors import PipelineError

Task = tuple[str, tuple[Any, ...]]  # "file in this folder.function", arguments without tensors
Message = tuple[int, bool, Task]  # number of the order, whether it is asked for, task
Answer = tuple[Any, Exception | None]  # the value returned, or the error
_NO_MORE: Any = None

_PATIENCE_S = 5.0
_ROOT = Path(__file__).parents[2]
_SERVE = f"import sys; sys.path[0] = {str(_ROOT)!r}; from MLPipeline.report.Drawing import serve; serve()"


class Order:
    """A task given to the drawing process, if there is one."""

    def __init__(self, task: Task, drawing: Drawing) -> None:
        self.task, self._drawing = task, drawing
        self.answer: Answer | None = None

    def result(self) -> Any:
        """Return the value of the task when it is done, or raise its error; done here if the process has not."""
        self._drawing.wait_for(self)
        if self.answer is None:
            self.answer = _obey(self.task), None
        value, error = self.answer
        if error:
            raise error
        return value


class Drawing:
    """The drawing process and its tasks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered: dict[int, Order] = {}
        self._drawn: list[Order] = []  # or to be drawn; `finish` waits for them

    def begin(self) -> None:
        """Start the process, unless it is running."""
        if self._process is not None:
            return
        # In a session of its own: Ctrl-C in the terminal interrupts this process alone, which then ends the other.
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

    def ask(self, name: str, *arguments: object) -> Order:
        """Have a function, such as `Thumbnails.take_photos`, called with `arguments`; return without waiting.

        It runs in parallel with the drawing and delays nothing, not even the end; so it must not write files.
        """
        return self._order((name, arguments), is_asked=True)

    def _order(self, task: Task, is_asked: bool) -> Order:
        order = Order(task, self)
        if self._process is not None:
            self._unanswered[id(order)] = order
            message: Message = id(order), is_asked, task
            try:
                pickle.dump(message, _pipe(self._process.stdin))
                _pipe(self._process.stdin).flush()
            except OSError:
                self.end()
        return order

    def draw(self, name: str, *arguments: object) -> None:
        """Have a function, such as `Plots.plot_history`, called with `arguments`; the last is the file to write.

        Returns without waiting.

        Raises:
            ResourceError: it was drawn in this process, and the disk is full or the folder cannot be written.
        """
        order = self._order((name, arguments), is_asked=False)
        if self._process is None:
            order.result()
        else:
            self._drawn.append(order)

    def wait_for(self, order: Order) -> None:
        """Wait until the process has answered `order`, or has ended."""
        while id(order) in self._unanswered and self._process:
            try:
                number, answer = pickle.load(_pipe(self._process.stdout))
                self._unanswered.pop(number).answer = answer
            except (OSError, EOFError, pickle.UnpicklingError):
                self.end()

    def finish(self) -> None:
        """Wait until all pictures are drawn.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        orders, self._drawn = self._drawn, []
        errors = []
        for order in orders:
            try:
                order.result()
            except Exception as error:  # the other pictures are still drawn
                errors.append(error)
        if errors:
            raise errors[0]

    def abandon(self) -> None:
        """Cancel what is still to be drawn: once this returns, nothing more is written."""
        self._drawn.clear()
        if self._unanswered:
            self.end()

    def end(self) -> None:
        """End the process once it has finished its tasks: a stopped run leaves no incomplete file.

        Unfinished tasks are done in this process when their result is needed: the system may have been out of memory.
        """
        self._unanswered.clear()
        if self._process is not None:
            atexit.unregister(self.end)
            try:
                self._process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None


def serve() -> None:
    """Run the tasks that arrive on standard input, and send the results back; ends at the end of the input."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that output of libraries does not mix with the results
    messages: SimpleQueue[Message] = SimpleQueue()
    answers: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(messages, answers), daemon=True).start()
    sender = threading.Thread(target=_send, args=(answers, pipe), daemon=True)
    sender.start()
    import_module("MLPipeline.report.ScorePlots")  # meanwhile
    while (message := messages.get()) is not _NO_MORE:
        _answer(message, answers)
    answers.put(_NO_MORE)
    sender.join()
    os._exit(0)  # no message about results that could not be sent


def _receive(messages: SimpleQueue[Message], answers: SimpleQueue[Any]) -> None:
    """Receive messages as they arrive, so that the sender never waits; those asked for get threads of their own."""
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the last one may have been cut off
        while True:
            message: Message = pickle.load(sys.stdin.buffer)
            if message[1]:
                threading.Thread(target=_answer, args=(message, answers), daemon=True).start()
            else:
                messages.put(message)
    messages.put(_NO_MORE)


def _send(answers: SimpleQueue[Any], pipe: BinaryIO) -> None:
    """Send results as they become available, so that drawing never waits for the reader."""
    with contextlib.suppress(BrokenPipeError):  # the other process has ended
        while (answer := answers.get()) is not _NO_MORE:
            pickle.dump(answer, pipe)
            pipe.flush()


def _obey(task: Task) -> Any:
    name, arguments = task
    file, function = name.split(".")
    return getattr(import_module(f"MLPipeline.report.{file}"), function)(*arguments)


def _answer(message: Message, answers: SimpleQueue[Any]) -> None:
    number, _, task = message
    answers.put((number, _outcome(task)))


def _outcome(task: Task) -> Answer:
    try:
        return _obey(task), None
    except (PipelineError, MemoryError) as error:
        return None, error
    except Exception:
        return None, RuntimeError(traceback.format_exc())


def _pipe(stream: Any) -> BinaryIO:
    """Return a stream that `Popen` was asked to open."""
    return stream


drawing = Drawing()
