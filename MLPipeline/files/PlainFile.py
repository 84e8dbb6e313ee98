"""Opens files that anyone may have written or named: never blocks, and never reads more than is sensible."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

# Where the system has them: opening a FIFO or a device returns at once.
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
_MB = 10**6


class UnusableFileError(ValueError):
    """A path names no regular file that can be read, or the file is too large; the text says which."""


def open_regular(path: Path, follows_links: bool = True) -> BinaryIO:
    """Return the regular file `path`, opened for reading bytes.

    A FIFO would block until another process writes to it, and a device may have no end, so the file is checked both
    before and after it is opened: another file may have taken its place in between.

    Raises:
        UnusableFileError: there is no such file, or it is a folder, FIFO, socket or device, or (unless
            `follows_links`) a symbolic link; or it may not be read.
    """
    try:
        _require_regular(path.stat() if follows_links else path.lstat())
        flags = os.O_RDONLY | _NON_BLOCKING | (0 if follows_links else getattr(os, "O_NOFOLLOW", 0))
        handle = os.open(path, flags)
        try:
            _require_regular(os.fstat(handle))
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except UnusableFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UnusableFileError(getattr(error, "strerror", None) or str(error)) from error


def read_bytes(path: Path, max_bytes: int, follows_links: bool = True) -> bytes:
    """Return the content of the regular file `path`.

    Raises:
        UnusableFileError: as for `open_regular`, or the file has more than `max_bytes`.
    """
    with open_regular(path, follows_links) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UnusableFileError(f"larger than {max_bytes / _MB:g} MB")
    return content


def kind_of(mode: int) -> str:
    """Return what a file that is not a regular one is, from its mode: `a directory`, `a FIFO`."""
    tests = {
        "a directory": stat.S_ISDIR,
        "a symbolic link": stat.S_ISLNK,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((kind for kind, is_kind in tests.items() if is_kind(mode)), "a device")


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFileError(f"is {kind_of(status.st_mode)}, not a regular file")
