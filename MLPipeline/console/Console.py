"""The console's look, in one place: results on stdout, notes and progress bars on stderr, all of it in `train.log`."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import one_line
from MLPipeline.files.AtomicFile import unwritable

Item = TypeVar("Item")

_said = logging.getLogger("Console")
_library = logging.getLogger("MLPipeline")


class _OneLine(logging.Formatter):
    """One line per message, whatever names of files are in it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def open_console() -> None:
    """Send the library's warnings to stderr as `note: ...` lines. Call once per process."""
    logging.raiseExceptions = False  # a disk that fills up under train.log is no reason for a traceback
    for logger in (_said, _library):
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in (*logger.handlers,):  # the log of the command before, where `main` is called twice
            logger.removeHandler(handler)
            handler.close()
    notes = logging.StreamHandler(sys.stderr) if ranks.is_first else logging.NullHandler()
    notes.setLevel(logging.WARNING)
    notes.setFormatter(_OneLine("note: %(message)s"))
    _library.addHandler(notes)


def log_to(path: Path) -> None:
    """Keep a copy of all that is said, with the time, in `path`.

    Raises:
        ResourceError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(path, error) from error
    handler.setFormatter(_OneLine("%(asctime)s %(message)s"))
    _said.addHandler(handler)
    _library.addHandler(handler)


def say(text: str = "") -> None:
    """Print a line of the result on stdout."""
    if not ranks.is_first:
        return
    with tqdm.external_write_mode():  # a progress bar makes room
        sys.stdout.write(printable(text, sys.stdout.encoding) + "\n")
        sys.stdout.flush()
    _said.info("%s", text)


def note(text: str) -> None:
    """Print `note: <text>` on stderr: something the user should know, no error."""
    _library.warning("%s", text)


@contextlib.contextmanager
def resumable_reading() -> Iterator[None]:
    """Say, where reading images is interrupted, that nothing read so far is lost."""
    try:
        yield
    except KeyboardInterrupt:
        note("stopped while the images were read: the same command goes on from there")
        raise


def fail(text: str) -> None:
    """Print `error: <text>` on stderr, on one line."""
    rank = "" if ranks.is_first else f"rank {ranks.rank}: "
    sys.stderr.write(f"error: {rank}{printable(text, sys.stderr.encoding)}\n")
    _said.info("error: %s", text)


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """Return `text` on one line, with control characters and what `encoding` lacks as backslash escapes.

    Names of files may be any bytes: a terminal must not obey them, and its encoding may not have them.
    """
    return one_line(text).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def progress(items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
    """Return `items` under a bar with rate and time left on stderr; no bar where stderr is not a terminal."""
    # disable=None is tqdm's own "only on a terminal"; leave=False keeps the finished console free of spent bars.
    return tqdm(items, desc=label, total=total, disable=not ranks.is_first or None, leave=False, dynamic_ncols=True)
