"""Draws pictures in a separate process, in parallel with the computation and without importing torch.

    drawing.begin()                                                    # does not block
    drawing.draw("Plots.plot_history", table, folder / "history.png")  # does not block
    photos = drawing.ask("Thumbnails.take_photos", paths)              # does not block
    photos.result()                                                    # waits for the function's return value
    drawing.finish()                                                   # waits until all pictures are drawn

Without the drawing process (not started, not possible, or ended early), the pictures are drawn in this process. The
drawing process receives tasks through a pipe; when this process ends, for whatever reason, it completes them and exits.
Pickled data passes only between these two processes, never through a file or the network.
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

from MLPipeline.Errors import PipelineError, is_out_of_memory

Task = tuple[str, tuple[Any, ...]]  # "file in this folder.function", arguments without tensors
Message = tuple[int, bool, Task]  # number of the order, whether it comes from `ask`, task
Answer = tuple[Any, Exception | None]  # the return value, or the error
_END: Any = None

_TIMEOUT_S = 5.0  # for the process to end
_ANSWER_S = 600.0  # for its next result
_ROOT = Path(__file__).parents[2]
_SERVE = f"import sys; sys.path[0] = {str(_ROOT)!r}; from MLPipeline.report.Drawing import serve; serve()"


class Order:
    """A task that was sent to the drawing process, if there is one."""

    def __init__(self, task: Task, drawing: Drawing) -> None:
        self.task, self._drawing = task, drawing
        self.answer: Answer | None = None

    def result(self) -> Any:
        """Wait for the task, and return its value or raise its error; runs it here if the drawing process has not."""
        self._drawing.wait_for(self)
        if self.answer is None:
            self.answer = _run_task(self.task), None
        value, error = self.answer
        if error:
            raise error
        return value


class Drawing:
    """The drawing process and its tasks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unanswered: dict[int, Order] = {}
        self._drawn: list[Order] = []  # drawn or being drawn; `finish` waits for them

    def begin(self) -> None:
        """Start the process, unless it is already running."""
        if self._process is not None:
            return
        # In a session of its own: Ctrl-C in the terminal interrupts only this process, which then ends the other.
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
        """Call a function, such as `Thumbnails.take_photos`, with `arguments` in the drawing process, without waiting.

        It runs in parallel with the drawing. Neither `finish` nor `end` waits for it, so it must not write files.
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
        """Call a function, such as `Plots.plot_history`, with `arguments` in the drawing process, without waiting.

        The last argument is the file to write.

        Raises:
            ResourceError: the picture was drawn in this process, and the disk is full or the folder is not writable.
        """
        order = self._order((name, arguments), is_asked=False)
        if self._process is None:
            order.result()
        else:
            self._drawn.append(order)

    def wait_for(self, order: Order) -> None:
        """Wait until the process has returned the result of `order`, or has ended; one that hangs is killed."""
        while id(order) in self._unanswered and self._process:
            limit = threading.Timer(_ANSWER_S, self._process.kill)
            limit.start()
            try:
                number, answer = pickle.load(_pipe(self._process.stdout))
                self._unanswered.pop(number).answer = answer
            except (OSError, EOFError, pickle.UnpicklingError):
                self.end()
            finally:
                limit.cancel()

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
        """Cancel the pictures that are not drawn yet; after this returns, no more files are written."""
        self._drawn.clear()
        if self._unanswered:
            self.end()

    def end(self) -> None:
        """End the process after it has completed its tasks, so that a stopped run leaves no incomplete file.

        Tasks without a result are run in this process when their result is needed: the system may have killed the other
        one because memory ran out.
        """
        self._unanswered.clear()
        if self._process is not None:
            atexit.unregister(self.end)
            try:
                self._process.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None

    def kill(self) -> None:
        """End the process at once, from any thread; what it has not drawn is lost."""
        if self._process is not None:
            self._process.kill()


def serve() -> None:
    """Run the tasks that arrive on standard input and send back the results, until the end of the input."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that no output of libraries is mixed into the results
    messages: SimpleQueue[Message] = SimpleQueue()
    answers: SimpleQueue[Any] = SimpleQueue()
    ready = threading.Event()
    threading.Thread(target=_receive, args=(messages, answers, ready), daemon=True).start()
    sender = threading.Thread(target=_send, args=(answers, pipe), daemon=True)
    sender.start()
    try:
        import_module("MLPipeline.report.ScorePlots")  # in the meantime, before the first task
    except Exception:  # a lack of memory, above all; the other process then draws, and says what is wrong
        os._exit(1)
    ready.set()
    while (message := messages.get()) is not _END:
        _answer(message, answers)
    answers.put(_END)
    sender.join()
    os._exit(0)  # without an error message for results that could not be sent


def _receive(messages: SimpleQueue[Message], answers: SimpleQueue[Any], ready: threading.Event) -> None:
    """Receive messages as they arrive, so that the sender never waits; those from `ask` run in threads of their own.

    The threads begin when `ready` is set: where two threads import matplotlib at once, one may find it half imported.
    """
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # the last message may be truncated
        while True:
            message: Message = pickle.load(sys.stdin.buffer)
            if message[1]:
                threading.Thread(target=_answer_when, args=(ready, message, answers), daemon=True).start()
            else:
                messages.put(message)
    messages.put(_END)


def _send(answers: SimpleQueue[Any], pipe: BinaryIO) -> None:
    """Send results as they become available, so that drawing never waits for the reader."""
    with contextlib.suppress(BrokenPipeError):  # the other process has ended
        while (answer := answers.get()) is not _END:
            pickle.dump(answer, pipe)
            pipe.flush()


def _run_task(task: Task) -> Any:
    name, arguments = task
    file, function = name.split(".")
    return getattr(import_module(f"MLPipeline.report.{file}"), function)(*arguments)


def _answer_when(ready: threading.Event, message: Message, answers: SimpleQueue[Any]) -> None:
    ready.wait()
    _answer(message, answers)


def _answer(message: Message, answers: SimpleQueue[Any]) -> None:
    number, _, task = message
    answers.put((number, _outcome(task)))


def _outcome(task: Task) -> Answer:
    try:
        return _run_task(task), None
    except PipelineError as error:
        return None, error
    except Exception as error:
        if is_out_of_memory(error):
            return None, MemoryError(str(error))
        return None, RuntimeError(traceback.format_exc())


def _pipe(stream: Any) -> BinaryIO:
    """Return a stream of `Popen`, which was opened as a pipe and therefore is not None."""
    return stream


drawing = Drawing()
