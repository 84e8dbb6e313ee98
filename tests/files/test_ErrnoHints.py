"""Each error of the operating system has a hint that fits it, and an exit code that says whose fault it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.ErrnoHints import _HINTS, errno_hint, is_shortage, unreadable

PATH = Path("output/001-cnn/last.pt")
# errno -> words of the hint when writing
HINTS = {
    errno.ENOSPC: "Free space, or give another --output",
    errno.EDQUOT: "quota",
    errno.EACCES: "Change the permissions, or give another --output",
    errno.EPERM: "Change the permissions, or give another --output",
    errno.EROFS: "The file system is read-only: give another --output",
    errno.ENAMETOOLONG: "Use shorter names",
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "Close other programs",
    errno.EIO: "Check that the disk is connected",
    errno.ESTALE: "network share",
    errno.ENOTCONN: "network share",
    errno.EFBIG: "ulimit -f",
    errno.ENOTDIR: "A part of the path is a file",
    errno.EISDIR: "A folder has this name",
    errno.ELOOP: "circle",
    errno.ETXTBSY: "A running program uses this file",
    errno.EBUSY: "Another program uses this file",
    errno.ENOMEM: "memory limit",
    errno.EAGAIN: "ulimit -u",
    errno.ENOLCK: "locks",
    errno.EINVAL: "does not allow this name",
    errno.ENOENT: "Give another --output",
    errno.EXDEV: "Give another --output",  # one that the table does not have
}


@pytest.mark.parametrize("number", HINTS, ids=errno.errorcode.get)
def test_a_hint_for_each_errno(number: int) -> None:
    error = unwritable(PATH, OSError(number, os.strerror(number)))
    assert error.exit_code == 3
    assert error.what == f"{PATH}: cannot be written ({os.strerror(number)})"
    assert HINTS[number] in error.hint and error.hint[0].isupper() and "{" not in error.hint


def test_only_a_full_disk_asks_for_space() -> None:
    asking = {name for name in _HINTS if "space" in errno_hint(OSError(getattr(errno, name), ""), "Give another")}
    assert asking == {"ENOSPC"}


def test_every_name_of_the_table_is_an_errno() -> None:
    assert [name for name in _HINTS if not hasattr(errno, name)] == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP])
def test_what_the_user_named_is_the_users_fault(number: int) -> None:
    error = unreadable("Data", OSError(number, os.strerror(number)), "Give another --data")
    assert isinstance(error, DataError) and error.what == f"Data: cannot be read ({os.strerror(number)})"
    assert "ive another --data" in error.hint


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE])
def test_what_the_machine_lacks_is_not(number: int) -> None:
    assert isinstance(unreadable("Data", OSError(number, os.strerror(number)), "Give another --data"), ResourceError)


def test_one_damaged_sector_is_no_shortage() -> None:
    assert is_shortage(OSError(errno.EMFILE, "")) and is_shortage(OSError(errno.ESTALE, ""))
    assert not is_shortage(OSError(errno.EIO, "")) and not is_shortage(OSError(errno.ENOENT, ""))
    assert not is_shortage(OSError("without a number"))
