"""Writes files atomically: to a temporary file in the same folder, which is flushed to disk and then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from MLPipeline.Errors import ResourceError
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.FileNames import shorten

_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}")  # the names of the temporary files of `write_file`
_MAX_BYTES = 240  # of the name in them; file systems allow 255


def write_file(path: Path, write: Callable[[BinaryIO], object], keep_previous: bool = False) -> None:
    """Write `path` atomically by calling `write` on an open file: `path` has its old content or all of its new one.

    An existing file keeps its permissions, and its owner if the system allows. With `keep_previous`, the old content
    is kept as `<name>.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    temporary = path.parent / f".{shorten(path.name, _MAX_BYTES)}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            _keep_access(path, file.fileno())
        if keep_previous and path.exists():
            _link_previous(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_half_written(folder: Path) -> None:
    """Delete temporary files that killed processes left in `folder`, which no other process may be writing to."""
    for path in folder.iterdir():
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; characters that are not valid Unicode are written as backslash escapes."""
    write_file(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def unwritable(path: Path, error: OSError, alternative: str = "Give another --output") -> ResourceError:
    """Return the error to raise when writing to `path` has failed; `alternative` is what helps in any case."""
    return ResourceError(f"{path}: cannot be written ({error.strerror or error})", errno_hint(error, alternative))


def _keep_access(path: Path, descriptor: int) -> None:
    """Give an open file the owner and the permissions of the file at `path`, if there is one."""
    if os.name == "nt":  # permissions are those of the folder
        return
    try:
        status = os.stat(path)
    except OSError:
        return
    with contextlib.suppress(OSError):  # only an administrator may give files away
        os.fchown(descriptor, status.st_uid, status.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _link_previous(path: Path) -> None:
    previous = path.with_name(path.name + ".prev")
    with contextlib.suppress(FileNotFoundError):
        previous.unlink()
    # A hard link is instant and atomic; file systems without hard links get no `.prev`.
    with contextlib.suppress(OSError):
        os.link(path, previous)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders, and its renames are durable
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not supported on some network file systems; the file itself is flushed
            os.fsync(handle)
    finally:
        os.close(handle)
