"""Files of a cache folder that others may be able to write to: links are not followed, contents are signed."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import os
import stat
from pathlib import Path
from typing import BinaryIO

from MLPipeline.files.AtomicFile import unwritable, write_file
from MLPipeline.files.CacheKey import cache_key, is_own, own_folder, store_key
from MLPipeline.files.PlainFile import UnusableFileError, kind_of, read_bytes

_SIGNATURE_BYTES = 16
_MAX_BYTES = 2**31
_FLAGS = {
    "rb": os.O_RDONLY,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

logger = logging.getLogger(__name__)


@functools.cache
def sound_cache(cache: Path) -> Path:
    """Return `cache`, or a folder of the user's own in its place if `cache` is another's and anyone may write to it.

    `cache` may be a link to a larger disk; only what lies inside is never reached through links.
    """
    try:
        status = cache.stat()
    except OSError:  # not made yet
        return cache
    if is_own(status) or not status.st_mode & stat.S_IWOTH or os.name != "posix":
        return cache
    name = hashlib.blake2b(os.fsencode(cache.resolve()), digest_size=8).hexdigest()
    try:
        own = own_folder("XDG_CACHE_HOME", ".cache") / name
    except RuntimeError:  # no home folder: what others write there is still not believed
        return cache
    logger.warning("%s belongs to another user and anyone may write to it: not used; %s is used instead", cache, own)
    return own


def make_folder(folder: Path) -> None:
    """Make `folder` in a cache, if it does not exist; a link in its place is removed, not followed.

    Raises:
        OSError: it cannot be made.
    """
    remove_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)


def open_plain(file: Path, mode: str) -> BinaryIO:
    """Return `file` of a cache opened as `rb` or `ab`; a link or anything else that no run has made is removed first.

    Raises:
        OSError: it cannot be opened.
    """
    remove_foreign(file)
    handle = os.open(file, _FLAGS[mode] | _PLAIN, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"is {kind_of(os.fstat(handle).st_mode)}")
        return os.fdopen(handle, mode)  # type: ignore[return-value]
    except BaseException:
        os.close(handle)
        raise


def write_signed(file: Path, content: bytes) -> None:
    """Write `content` to `file`, two levels below the cache, signed with the user's key.

    Raises:
        ResourceError: it cannot be written.
    """
    try:
        make_folder(file.parent)
    except OSError as error:
        raise unwritable(file, error) from error
    write_file(file, lambda opened: opened.write(_signature(file, content) + content))


def read_signed(file: Path) -> bytes | None:
    """Return the content of `file`; None if there is none, or this user has not written it."""
    try:
        if file.parent.is_symlink():
            return None
        signed = read_bytes(file, _MAX_BYTES, follows_links=False)
    except UnusableFileError:
        return None
    signature, content = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    if hmac.compare_digest(signature, _signature(file, content)):
        return content
    logger.warning("%s is damaged, or from someone else: computed again", file)
    return None


def _signature(file: Path, content: bytes) -> bytes:
    key = store_key(cache_key(file.parent.parent), f"{file.parent.name}/{file.name}")
    return hashlib.blake2b(content, key=key, digest_size=_SIGNATURE_BYTES).digest()


def remove_foreign(path: Path) -> None:
    """Remove what lies at `path` if no run can have made it: links, FIFOs, devices.

    A file with several names (hard links) is not written to either: it may be a backup of the cache. Owners are not
    compared, as some network file systems show the same one for all files; signatures tell foreign rows.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    is_file = stat.S_ISREG(status.st_mode)
    if stat.S_ISDIR(status.st_mode) or (is_file and status.st_nlink == 1):
        return
    logger.warning("%s is %s: not used", path, "a hard link" if is_file else kind_of(status.st_mode))
    path.unlink()
