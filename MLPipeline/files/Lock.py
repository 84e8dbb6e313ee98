"""Locks between processes: one at a time writes to a folder. A lock ends with the process that holds it.

    with held(folder / "lock", folder):                  # waits, and says for which process
    with held(folder / "lock", folder, timeout_s=0):     # raises ResourceError if another process holds it

Beside the lock file lies a record of the process that holds it, for messages only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from MLPipeline.Errors import ResourceError
from MLPipeline.files.Json import read_json

SILENT_S = 2.0  # of waiting before a message says for which process
_MAX_RECORD_BYTES = 10_000
_MAX_COMMAND = 80  # characters of the other process's command line that are shown
# The file system has no locks at all: NFS without its lock service, some FUSE and cluster file systems.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}

logger = logging.getLogger(__name__)
_has_locks: dict[int, bool] = {}  # by the device of the file system


@contextmanager
def held(file: Path, subject: Path, timeout_s: float = math.inf) -> Iterator[None]:
    """Hold the lock `file`, which protects `subject`, inside the `with` block; on a file system without locks, go on.

    While another process holds the lock, wait for up to `timeout_s` seconds.

    Raises:
        ResourceError: another process still holds the lock.
        OSError: the lock file cannot be written.
    """
    if not has_locks(file.parent):
        yield
        return
    lock, record = FileLock(file), file.with_name(f"{file.name}.owner")
    _acquire(lock, record, subject, timeout_s)
    try:
        with contextlib.suppress(OSError):  # the record is not needed, and the disk may be full
            record.unlink(missing_ok=True)  # it may be a link, which is not followed
            with record.open("x", encoding="utf-8") as opened:
                opened.write(json.dumps(_this_process()))
        yield
    finally:
        with contextlib.suppress(OSError):
            record.unlink(missing_ok=True)
        lock.release()


def has_locks(folder: Path) -> bool:
    """Return whether the file system of `folder` has locks, which is tried once; if not, note that.

    Raises:
        OSError: the folder cannot be written.
    """
    device = os.stat(folder).st_dev
    if device not in _has_locks:
        refusal = _refusal(folder)
        _has_locks[device] = not refusal
        if refusal:
            what = "%s: the file system has no locks (%s). Do not start two commands with the same --output at once"
            logger.warning(what, folder, refusal)
    return _has_locks[device]


def _refusal(folder: Path) -> str:
    """Return why an unnamed file in `folder` cannot be locked; empty if it can be."""
    if os.name == "nt":
        return ""
    import fcntl  # not on Windows

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return error.strerror or str(error)
    return ""


def _acquire(lock: BaseFileLock, record: Path, subject: Path, timeout_s: float) -> None:
    """Acquire `lock`; if that takes a while, say for which process we wait."""
    try:
        lock.acquire(timeout=min(SILENT_S, timeout_s))
        return
    except Timeout as error:
        if timeout_s <= SILENT_S:
            raise _in_use(subject, record) from error
    what = "waiting for %s, which is writing to %s. To end the wait, press Ctrl-C, or end that process"
    logger.warning(what, _owner(record), subject)
    try:
        lock.acquire(timeout=-1 if timeout_s == math.inf else timeout_s - SILENT_S)
    except Timeout as error:
        raise _in_use(subject, record) from error


def _in_use(subject: Path, record: Path) -> ResourceError:
    return ResourceError(f"{subject}: in use by {_owner(record)}", "Wait until it is done, or end it")


def _this_process() -> dict[str, object]:
    words = ["python", *sys.argv] if sys.argv[:1] != ["-c"] else ["python"]
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(words), "since": time.time()}


def _owner(record: Path) -> str:
    """Return `process 123 (python Engine.py --model cnn, for 5 min)`, as far as it is known."""
    try:
        owner = read_json(record, _MAX_RECORD_BYTES)
        pid, host, command, since = (owner[name] for name in ("pid", "host", "command", "since"))
        minutes = (time.time() - float(since)) / 60
        command = str(command) if len(str(command)) <= _MAX_COMMAND else f"{str(command)[: _MAX_COMMAND - 3]}..."
        duration = f"{max(0, 60 * minutes):.0f} s" if minutes < 2 else f"{minutes:.0f} min"
        return f"process {int(pid)}{'' if host == socket.gethostname() else f' on {host}'} ({command}, for {duration})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
