"""What can go wrong in a way the user can mend: one class per exit code, each error one line.

`Engine.main` catches `PipelineError` once and prints `error: <what>. <mend>`; anything else that is raised is our bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of all errors a user can mend: `what` is wrong (and where), and how to `mend` it."""

    exit_code = 2

    def __init__(self, what: str, mend: str) -> None:
        self.what = what.rstrip(".")
        self.mend = mend
        super().__init__(f"{self.what}. {mend}".replace("\n", "\\n"))


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


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `Did you mean 'x'?` for the nearest choices and always the list of all (shortened past twenty)."""
    names = sorted(choices)
    near = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.6)
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    guess = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return f"{guess}Choose from: {listed}"
