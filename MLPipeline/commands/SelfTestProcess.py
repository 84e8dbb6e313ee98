"""A second process that runs command lines and other work for `selftest`, so that a crash or a hang ends only that one.

    with SelfTestProcess() as process:
        process.call("command", ["--model", "cnn"])    # the value of `command(["--model", "cnn"])`, run there

Requests and answers are lines of JSON. The process imports torch once, for all command lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from MLPipeline.Errors import ResourceError

_TIMEOUT_S = 120.0  # for one request
_GRACE_S = 15.0  # to complete the files that are being written
_TEST_BYTES = 2**30
_ROOT = Path(__file__).parents[2]
_SERVE = (
    f"import sys; sys.path[0] = {str(_ROOT)!r}; import Engine; "
    "from MLPipeline.commands.SelfTestProcess import serve; serve(Engine.main)"
)
_FIRST_EPOCH = re.compile(r" +1 ")  # the first row of the table of epochs


class SelfTestProcess:
    """The process; started at the first request, and again after it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> SelfTestProcess:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.end()

    def call(self, name: str, *arguments: Any) -> Any:
        """Return the value of `command` or of one of the functions of `_REQUESTS`.

        Raises:
            ResourceError: it raised an error, or the process ended or did not answer in time.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        limit = threading.Timer(_TIMEOUT_S, process.kill)
        limit.start()
        try:
            process.stdin.write(json.dumps([name, arguments]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            limit.cancel()
        if not answer:
            raise ResourceError(_ending(process.wait()), "Try to reinstall torch and opencv-python-headless")
        value, error = json.loads(answer)
        if error:
            raise ResourceError(*error)
        return value

    def end(self) -> None:
        """End the process; it completes the files that it is writing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            # In a session of its own: Ctrl-C in the terminal interrupts only this process, which then ends the other.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                start_new_session=os.name == "posix",
            )
        return self._process


def _ending(code: int) -> str:
    return f"the process was ended by signal {-code}" if code < 0 else f"the process ended with code {code}"


def serve(main: Callable[[list[str]], int]) -> None:
    """Answer requests from standard input until its end; `main` runs a command line."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no output of libraries among the answers
    for line in sys.stdin:
        answers.write(json.dumps(_answer(main, *json.loads(line))) + "\n")
        answers.flush()


def _answer(main: Callable[[list[str]], int], name: str, arguments: list[Any]) -> tuple[Any, tuple[str, str] | None]:
    """Return the value of a request, or what went wrong and a hint."""
    try:
        value = _command(main, *arguments) if name == "command" else _REQUESTS[name](*arguments)
    except Exception as error:
        return None, (f"{type(error).__name__}: {error}", "Report it with this line")
    return value, None


class _Console(io.StringIO):
    """Collects what is printed; on request, interrupts the command after its first epoch, as Ctrl-C does."""

    def __init__(self, stops: bool) -> None:
        super().__init__()
        self._stops = stops

    def write(self, text: str) -> int:
        if self._stops and _FIRST_EPOCH.match(text):
            self._stops = False
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def _command(main: Callable[[list[str]], int], argv: list[str], stops: bool = False) -> list[Any]:
    """Return exit code, output and error output of a command line; with `stops`, it is stopped after an epoch."""
    out, err = _Console(stops), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return [code, out.getvalue(), err.getvalue()]


def _devices() -> dict[str, str]:
    """Return the accelerators of this machine: their names in `--device`, and what they are."""
    import torch

    found = {}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def _weights(path: str) -> str:
    """Return a hash of the weights in a model file."""
    from MLPipeline.files.TensorFile import load_file

    stored: Any = load_file(Path(path))
    tensors = (name.encode() + tensor.numpy().tobytes() for name, tensor in stored["state_dict"].items())
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def _colours(paths: Sequence[str]) -> list[list[float]]:
    """Return the mean red, green and blue of each image file."""
    read_image = importlib.import_module("MLPipeline.decoding.ReadImage").read_image
    return [read_image(Path(path)).pixels.mean((0, 1)).tolist() for path in paths]


def _memory() -> int:
    """Return how many bytes could be filled at once, as a test."""
    import torch

    return torch.ones(_TEST_BYTES, dtype=torch.uint8).numel()


def _ranks() -> bool:
    """Return whether this build of torch can compute with several processes."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_gloo_available()


_REQUESTS: dict[str, Callable[..., Any]] = {
    "devices": _devices,
    "weights": _weights,
    "colours": _colours,
    "memory": _memory,
    "ranks": _ranks,
}
