"""What can go wrong that the user can put right: one class per exit code, each error one line.

`Engine.main` catches `PipelineError` once and prints `error: <what>. <hint>`; anything else that is raised is our bug.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

# Line ends, terminal escapes (C0, C1, DEL) and marks that turn the direction of the text around.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class PipelineError(Exception):
    """Base of all errors a user can put right: `what` is wrong, and where; `hint` says what to do."""

    exit_code = 2

    def __init__(self, what: str, hint: str) -> None:
        self.what = what.rstrip(".")
        self.hint = hint
        super().__init__(one_line(f"{self.what}. {hint}"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.hint)  # else it could not be told from one process to another


class UsageError(PipelineError):
    """A flag, a name or a value is wrong."""


class DataError(PipelineError):
    """The images, folders or a checkpoint the user gave cannot be used."""


class ResourceError(PipelineError):
    """The environment fails: disk, memory, network, a missing package, a lock."""

    exit_code = 3


class DivergedError(PipelineError):
    """The loss is no longer a finite number."""

    exit_code = 4


class GateMissedError(PipelineError):
    """A quality the user asked for was not reached (`--min-accuracy`)."""

    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is Python's, CUDA's, or that of torch's CPU allocator, which has no type of its own."""
    name = type(error).__name__  # this file is not to import torch
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def one_line(text: str) -> str:
    r"""Return `text` with control characters as backslash escapes: a file may be called `\x1b[2J` or hold a newline."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `Did you mean 'x'?` for the nearest choices and always the list of all (shortened past twenty)."""
    names = sorted(choices)
    near = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6)
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    guess = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{guess}Choose from: {listed}"
