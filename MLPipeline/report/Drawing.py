"""Pictures are drawn beside the computing: in a process of its own, which never waits for torch to be loaded.

    drawing.begin()                                                    # returns at once
    drawing.draw("Plots.plot_history", table, folder / "history.png")  # so does this
    photos = drawing.ask("Thumbnails.take_photos", paths)              # and this
    photos.result()                                                    # what the function has returned
    drawing.finish()                                                   # all are drawn, or an error says why not

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
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from MLPipeline.Errors import PipelineError

Task = tuple[str, tuple[Any, ...]]  # "file in this folder.function", arguments without tensors
Message = tuple[int, bool, Task]  # number of the order, whether it is only asked for
Answer = tuple[Any, Exception | None]  # what the function has returned, or what went wrong
_NO_MORE: Any = None

_PATIENCE_S = 5.0
_ROOT = Path(__file__).parents[2]
_SERVE = f"import sys; sys.path[0] = {str(_ROOT)!r}; from MLPipeline.report.Drawing import serve; serve()"


class Order:
    """A task that the process has been given, if there is one."""

    def __init__(self, task: Task, drawing: Drawing) -> None:
        self.task, self._drawing = task, drawing
        self.answer: Answer | None = None

    def result(self) -> Any:
        """Return what the task returns, once it is done; raise what it raises. Done here if no process has done it."""
        self._drawing.wait_for(self)
        if self.answer is None:
            self.answer = _obey(self.task), None
        value, error = self.answer
        if error:
            raise error
        return value


class Drawing:
    """The process that draws, and what it has been told to draw."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered: dict[int, Order] = {}
        self._drawn: list[Order] = []  # or to be drawn; nobody has asked yet

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

    def ask(self, name: str, *arguments: object) -> Order:
        """Have `Thumbnails.take_photos`, say, called with `arguments`; do not wait for what it returns.

        It is done beside the drawing and holds nothing up, not even the end; so it must write no file.
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
        """Have `Plots.plot_history`, say, called with `arguments`, the last of which is where to save; do not wait.

        Raises:
            ResourceError: drawn here, and the disk is full or the folder cannot be written.
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
        """Wait until all that was ordered is drawn.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        orders, self._drawn = self._drawn, []
        errors = []
        for order in orders:
            try:
                order.result()
            except Exception as error:  # the others are to be drawn all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def abandon(self) -> None:
        """Nobody will wait for what is still ordered: once this returns, nothing more is written."""
        self._drawn.clear()
        if self._unanswered:
            self.end()

    def end(self) -> None:
        """End the process once it has drawn what it was told to: a run that is stopped leaves no file half-written.

        What it has not answered is done here if somebody asks for it: the system may have been short of memory.
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
    """Do what comes through standard input, and answer what came of it; ends with the input."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
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
    os._exit(0)  # not a word about what could not be said


def _receive(messages: SimpleQueue[Message], answers: SimpleQueue[Any]) -> None:
    """Take messages as they come, so that nobody waits to give one; what is only asked for is done beside the rest."""
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the last one may have been cut off
        while True:
            message: Message = pickle.load(sys.stdin.buffer)
            if message[1]:
                threading.Thread(target=_answer, args=(message, answers), daemon=True).start()
            else:
                messages.put(message)
    messages.put(_NO_MORE)


def _send(answers: SimpleQueue[Any], pipe: BinaryIO) -> None:
    """Give answers as they come, so that nothing waits to be drawn until somebody listens."""
    with contextlib.suppress(BrokenPipeError):  # whoever ordered it is gone
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
    """Return a stream that `Popen` was asked for."""
    return stream


drawing = Drawing()
