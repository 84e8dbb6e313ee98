"""Errors that the user can correct: one class per exit code, one line per error.

`commands/Main.py` catches `PipelineError` and prints `error: <what>. <hint>`; any other exception is a bug of ours.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

# What torch (CPU, CUDA, MPS), C++, OpenCV, the threads of Python and the dynamic loader say when memory is exhausted.
# The loader says "cannot allocate memory in static TLS block" for another reason, and cannot map files of a `noexec`
# disk.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|std::bad_alloc|out of memory|ALLOC_FAILED|Insufficient memory|can't start new thread"
    r"|could not create a (primitive|memory)$"  # oneDNN, where it cannot allocate the code of a kernel
    r"|cannot allocate memory(?! in static)|failed to map segment from shared object(?!: Operation not permitted)",
    re.IGNORECASE,
)
# Control characters (C0, C1, DEL), line ends, and what is invisible: marks that change the direction of text, spaces
# without width, tags. Joiners are kept between two characters outside ASCII: emoji and many scripts need them there.
INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5}|[tnr])")


class PipelineError(Exception):
    """Base of all errors that the user can correct: `what` is wrong, and where; `hint` says what to do."""

    exit_code = 2

    def __init__(self, what: str, hint: str) -> None:
        self.what = what.rstrip(".")
        self.hint = hint
        super().__init__(one_line(f"{self.what}. {hint}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.hint)  # for pickling: errors travel between processes


class UsageError(PipelineError):
    """A flag, a name or a value is wrong."""


class DataError(PipelineError):
    """The user's images, folders or model file cannot be used."""


class ResourceError(PipelineError):
    """The environment does not allow it: disk, memory, network, a missing package, a lock."""

    exit_code = 3


class DivergedError(PipelineError):
    """The loss is no longer a finite number."""

    exit_code = 4


class GateMissedError(PipelineError):
    """A required quality was not reached (`--min-accuracy`)."""

    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory is exhausted: of Python, the system, torch, OpenCV, a GPU or a loader.

    By messages where there is no other way: this file must not import torch or OpenCV.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, (RuntimeError, ImportError, OSError, *_opencv_errors())) and bool(
        _NO_MEMORY.search(str(error))
    )


def out_of_memory(error: BaseException, doing: str, hint: str) -> ResourceError:
    """Return the error to raise for `error`, of which `is_out_of_memory` holds, with the size that was requested."""
    size = re.search(r"allocate (\d[\d.]*) ?(bytes|[KMGT]i?B)", str(error))
    requested = ""
    if size and size[2] == "bytes":
        requested = f": {int(size[1].rstrip('.')) / 1e9:,.3g} GB were requested"
    elif size:
        requested = f": {size[1]} {size[2]} were requested"
    return ResourceError(f"out of memory {doing}{requested}", hint)


@contextlib.contextmanager
def within_memory(doing: str, hint: str) -> Iterator[None]:
    """Turn a lack of memory inside the block into an error that says what was being done.

    Raises:
        ResourceError: memory is exhausted.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PipelineError) or not is_out_of_memory(error):
            raise
        raise out_of_memory(error, doing, hint) from error


def _opencv_errors() -> tuple[type[Exception], ...]:
    """Return OpenCV's class of errors, if OpenCV is loaded."""
    cv2 = sys.modules.get("cv2")
    return (cv2.error,) if cv2 and hasattr(cv2, "error") else ()


def one_line(text: str) -> str:
    r"""Return `text` with control characters and invisible ones as backslash escapes.

    A file may be called `\x1b[2J`, or `photo\u202egpj.exe`, which is shown as `photoexe.jpg`.
    """
    return INVISIBLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def unescaped(line: str) -> str:
    r"""Return the text that `one_line` has made `line` of; `\udcff` becomes a byte of a name that is not UTF-8."""
    return _ESCAPE.sub(lambda match: match[0].encode().decode("unicode_escape"), line)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `Did you mean 'x'?` with the nearest choices, if any, and the list of all (at most twenty)."""
    names = sorted(choices)
    near = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6)
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    guess = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{guess}Choose from: {listed}"
