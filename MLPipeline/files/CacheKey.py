"""The key that the rows of a cache are signed with: a secret of this user, so that no one else's rows are believed.

A cache folder may be writable by others, or come with an `output` folder from another machine. Rows in it are used only
if they were signed with the key in the user's own configuration folder; whoever cannot read that file cannot sign.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import secrets
import stat
from pathlib import Path

PROJECT = "image-classification-pipeline"
_KEY_BYTES = 32
_IS_POSIX = os.name == "posix"

logger = logging.getLogger(__name__)


@functools.cache
def cache_key(cache: Path) -> bytes:
    """Return the secret key of this user, 32 bytes; made at the first use, readable by this user alone.

    Where there is no home folder, or it cannot be written, the key is kept in the folder `cache` itself. That still
    keeps out other users of this machine, but not a folder that someone else has filled and passed on; a warning says
    so.
    """
    try:
        return _stored_key(own_folder("XDG_CONFIG_HOME", ".config") / "cache.key")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home folder
        reason = getattr(error, "strerror", None) or error
    try:
        key = _stored_key(cache / "cache.key")
        where = "kept in the cache itself: do not use an output folder from someone else"
    except (OSError, ValueError):
        key, where = secrets.token_bytes(_KEY_BYTES), "kept nowhere, so later runs cannot use what this one stores"
    logger.warning("the key of the cache %s cannot be kept in the home folder (%s); it is %s", cache, reason, where)
    return key


def own_folder(variable: str, default: str) -> Path:
    """Return this project's folder among those that the environment `variable` or else `~/<default>` names.

    Raises:
        RuntimeError: there is no home folder.
    """
    return Path(os.environ.get(variable) or Path.home() / default) / PROJECT


def store_key(key: bytes, about: str) -> bytes:
    """Return the key for what `about` describes: what is signed for one purpose is worthless for another."""
    return hashlib.blake2b(about.encode("utf-8", "surrogateescape"), key=key, digest_size=_KEY_BYTES).digest()


def is_own(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user; where there are no owners, always."""
    return not _IS_POSIX or status.st_uid == os.geteuid()


def _stored_key(file: Path) -> bytes:
    """Return the key in `file`, which is written if it does not exist."""
    try:
        return _read(file)
    except FileNotFoundError:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(new, file)  # unlike a rename, keeps the key that another process has written meanwhile
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    return _read(file)


def _read(file: Path) -> bytes:
    """Return the key in `file`, which must belong to this user and be readable by no one else."""
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as opened:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not is_own(status):
            raise ValueError(f"{file} is not a file of this user")
        if _IS_POSIX and status.st_mode & 0o077:
            raise ValueError(f"{file} can be read by others: delete it")
        key = opened.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{file} is damaged: delete it")
    return key
