"""What to do about an error of the operating system: one hint for each errno, wherever it arises."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from MLPipeline.Errors import DataError, PipelineError, ResourceError

_PERMISSION = "Change the permissions, or {alternative}"
_OTHER_NAME = "The file system does not allow this name: {alternative}"
_SHARE = "Check the connection to the network share, and mount it again"
_DEVICE = "Check that the disk is connected, and the messages of the system"

_HINTS: Mapping[str, str] = {
    "ENOSPC": "Free space, or {alternative}",
    "EDQUOT": "The disk quota is used up: delete files, or {alternative}",
    "EACCES": _PERMISSION,
    "EPERM": _PERMISSION,
    "EROFS": "The file system is read-only: {alternative}",
    "ENAMETOOLONG": "Use shorter names: most file systems allow 255 bytes for each part of a path",
    "ENOTDIR": "A part of the path is a file: {alternative}",
    "EISDIR": "A folder has this name: {alternative}",
    "EEXIST": "Something else has this name: {alternative}",
    "ELOOP": "Symbolic links lead in a circle: {alternative}",
    "EINVAL": _OTHER_NAME,
    "EILSEQ": _OTHER_NAME,
    "EFBIG": "The file is larger than the file system or `ulimit -f` allows: raise the limit, or {alternative}",
    "EMLINK": "The folder has too many entries: {alternative}",
    "EMFILE": "Raise the limit of open files (ulimit -n 4096), or use a smaller --workers",
    "ENFILE": "Close other programs: the limit of open files of the whole system is reached",
    "ENOMEM": "Close other programs, or raise the memory limit",
    "EAGAIN": "Raise the limit of processes (ulimit -u), or use a smaller --workers",
    "ETXTBSY": "A running program uses this file: end it, or {alternative}",
    "EBUSY": "Another program uses this file: close it, or {alternative}",
    "ENOLCK": "The system has no more locks: close other programs, or {alternative}",
    "EIO": _DEVICE,
    "ENXIO": _DEVICE,
    "ENODEV": _DEVICE,
    "ESTALE": _SHARE,
    "ENOTCONN": _SHARE,
    "ETIMEDOUT": _SHARE,
    "EHOSTDOWN": _SHARE,
    "EHOSTUNREACH": _SHARE,
}
# The machine or a disk is at fault, not the path: other files cannot be read either.
_SHORTAGES = ("EMFILE", "ENFILE", "ENOMEM", "ENXIO", "ENODEV", "ESTALE", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH")
_ENVIRONMENT = (*_SHORTAGES, "EIO", "ETIMEDOUT", "EAGAIN", "EBUSY", "ENOLCK")


def errno_hint(error: OSError, alternative: str) -> str:
    """Return what to do about `error`; `alternative` ("Give another --output") is what helps in any case."""
    alternative = alternative[:1].lower() + alternative[1:]
    hint = _HINTS.get(_name(error), "{alternative}").format(alternative=alternative)
    return hint[:1].upper() + hint[1:]


def unreadable(path: object, error: OSError, alternative: str) -> PipelineError:
    """Return the error to raise when reading `path` has failed: the user's data, or the environment, is at fault."""
    kind = ResourceError if _name(error) in _ENVIRONMENT else DataError
    return kind(f"{path}: cannot be read ({error.strerror or error})", errno_hint(error, alternative))


def is_shortage(error: OSError) -> bool:
    """Return whether `error` comes from a lack that concerns all files: open files, memory, a disconnected disk."""
    return _name(error) in _SHORTAGES


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")
