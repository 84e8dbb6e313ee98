"""Everything that is printed: results on stdout, notes and progress bars on stderr, a copy of both in `train.log`.

None of it can fail: a terminal that is gone, a closed pipe or a full disk must not end a run (see SafeStream).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from MLPipeline.console.SafeStream import SafeStream, open_missing_descriptors, safe
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError, one_line
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.ErrnoHints import errno_hint

Item = TypeVar("Item")

_said = logging.getLogger("Console")
_library = logging.getLogger("MLPipeline")


class _OneLine(logging.Formatter):
    """Formats each message as one line, even if it contains file names with line ends."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def open_console() -> None:
    """Make the standard streams safe, and send the library's warnings to stderr as `note: ...` lines.

    Call it before any file is opened.
    """
    open_missing_descriptors()
    sys.stdout, sys.stderr = safe(sys.stdout), safe(sys.stderr)
    logging.raiseExceptions = False  # no traceback if the disk is too full for train.log
    for logger in (_said, _library):
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in (*logger.handlers,):  # of an earlier command, if `main` is called twice
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # the disk is too full for the last lines
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


def close_console() -> None:
    """Make sure that output which could not be printed does not change the exit code when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, SafeStream):
            stream.settle()


def say(text: str = "", on_stderr: bool = False) -> None:
    """Print a line of the result on stdout; `on_stderr` where stdout carries a table."""
    if not ranks.is_first:
        return
    stream = sys.stderr if on_stderr else sys.stdout
    with tqdm.external_write_mode():  # a progress bar makes room
        stream.write(printable(text, stream.encoding) + "\n")
        stream.flush()
    _said.info("%s", text)


def is_unread() -> bool:
    """Return whether the reader of stdout has closed the pipe, as in `predict | head -1`."""
    error = _stdout_error()
    return error is not None and error.errno in (errno.EPIPE, errno.ESHUTDOWN)


def require_complete_stdout() -> None:
    """Check that no result was lost on the way to stdout, except because its reader has closed the pipe.

    For output that programs read.

    Raises:
        ResourceError: a result was lost.
    """
    error = _stdout_error()
    if error is not None and not is_unread():
        what = f"standard output: not complete ({error.strerror or error})"
        elsewhere = "Send the output to a file"
        is_terminal = error.errno == errno.EIO  # one that has been closed
        raise ResourceError(what, elsewhere if is_terminal else errno_hint(error, elsewhere))


def _stdout_error() -> OSError | None:
    return sys.stdout.error if isinstance(sys.stdout, SafeStream) else None


def note(text: str) -> None:
    """Print `note: <text>` on stderr: something the user should know that is not an error."""
    _library.warning("%s", text)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Print no notes inside the block: the same steps will be done again, and will say the same."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    handlers = [*_library.handlers]
    for handler in handlers:
        handler.addFilter(refuse)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(refuse)


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
