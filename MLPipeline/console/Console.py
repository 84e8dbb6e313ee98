"""Everything that is printed: results on stdout, notes and progress bars on stderr, a copy of both in `train.log`."""

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
    """Formats each message as one line, even if it contains file names with line ends."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def open_console() -> None:
    """Send the library's warnings to stderr as `note: ...` lines. Call once per process."""
    logging.raiseExceptions = False  # no traceback if the disk is too full for train.log
    for logger in (_said, _library):
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in (*logger.handlers,):  # of an earlier command, if `main` is called twice
            logger.removeHandler(handler)
            handler.close()
    notes = logging.StreamHandler(sys.stderr) if ranks.is_first else logging.NullHandler()
    notes.setLevel(logging.WARNING)
    notes.setFormatter(_OneLine("note: %(message)s"))
    _library.addHandler(notes)


def log_to(path: Path) -> None:
    """Write a copy of everything that is printed, with the time, to `path`.

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
    """Print `note: <text>` on stderr: something the user should know that is not an error."""
    _library.warning("%s", text)


@contextlib.contextmanager
def resumable_reading() -> Iterator[None]:
    """If the block is interrupted, print that nothing that was read is lost."""
    try:
        yield
    except KeyboardInterrupt:
        note("stopped while reading the images: the same command continues from there")
        raise


def fail(text: str) -> None:
    """Print `error: <text>` on stderr, on one line."""
    rank = "" if ranks.is_first else f"rank {ranks.rank}: "
    sys.stderr.write(f"error: {rank}{printable(text, sys.stderr.encoding)}\n")
    _said.info("error: %s", text)


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """Return `text` on one line, with control characters and characters outside `encoding` as backslash escapes.

    File names may contain any bytes, including those that control a terminal.
    """
    return one_line(text).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def progress(items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
    """Return `items` with a progress bar on stderr if that is a terminal."""
    # disable=None: only on a terminal; leave=False: the bar disappears at the end.
    return tqdm(items, desc=label, total=total, disable=not ranks.is_first or None, leave=False, dynamic_ncols=True)
