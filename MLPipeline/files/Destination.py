"""Decides, before a command begins, where it may write: never over the user's files, among the images, or in a run.

    reserved = Reserved(images=[data], inputs=files)
    reserved.check_folder("--sort-into", config.sort_into)
    destination = reserved.table("--csv", config.csv, config.overwrite)  # what `open_csv` writes to

Places are compared by device and inode, so that links, other spellings, `..`, case-insensitive file systems and bind
mounts make no difference.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from MLPipeline.Errors import UsageError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.OwnTable import is_own_table

STDOUT = Path("-")
# A run folder holds its settings from the start, and its log or its model.
_RUN_SETTINGS, _RUN_FILES = "config.json", ("train.log", "model.pt", "last.pt", "metrics.json")
_HEAD_BYTES = 65_536
_HINT = "Give another file"

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class Destination:
    """Where a table is written: a file that is replaced in one piece, or a stream that takes it row by row."""

    path: Path  # of a file: with all links resolved
    is_stream: bool = False  # a pipe, a terminal or another character device
    is_stdout: bool = False

    def __str__(self) -> str:
        return "standard output" if self.is_stdout else str(self.path)


class Reserved:
    """The places of one command to which nothing may be written: its images, its other inputs, and all runs."""

    def __init__(self, images: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
        """Take the folders of `images`, and the files that the command reads."""
        self._inputs = list(inputs)
        self._folders: dict[Identity | Path, Path] = {}
        for folder in images:
            for each in (folder, *_folders_in(folder)):
                self._folders.setdefault(_place_of(each), folder)

    def check_folder(self, flag: str, folder: Path) -> None:
        """Check that a command may create `folder`, which `flag` names, and write into it.

        Raises:
            UsageError: it is a file, or lies inside the images or a run.
        """
        if os.path.lexists(folder) and not os.path.isdir(folder):
            if os.path.islink(folder):
                raise UsageError(f"{flag} {folder}: is a link that leads to no folder", "Give a folder")
            raise UsageError(f"{flag} {folder}: is a file", "Give a folder")
        self._check_place(flag, folder, "Give a folder outside of it")
        _check_parents(flag, folder, "Give another folder")

    def table(self, flag: str, path: Path, overwrite: bool) -> Destination:
        """Return where the table goes that `flag` asks for in `path`; `-` is standard output.

        With `overwrite`, text files are replaced that no command of ours has written.

        Raises:
            UsageError: `path` is a folder, a device with blocks, one of the inputs, or a file that is not a table of
                predictions; or it lies inside the images or a run.
            ResourceError: it cannot be written.
        """
        status = None if path == STDOUT else _status(flag, path)
        if path == STDOUT or _is_same(status, 1):
            if sys.stdout is None or sys.stdout.closed:
                raise UsageError(f"{flag} {path}: standard output is closed", "Give a file")
            return Destination(STDOUT, is_stream=True, is_stdout=True)
        if status is not None:
            if (what := refused_kind(status.st_mode)) is not None:
                raise UsageError(f"{flag} {path}: {what}", _HINT)
            if not stat.S_ISREG(status.st_mode):
                return Destination(path, is_stream=True)
        self._check_place(flag, path, "Give a file outside of it")
        _check_parents(flag, path, _HINT)
        if status is not None:
            self._check_existing(flag, path, status, overwrite)
        real = Path(os.path.realpath(path))
        _check_writable(real)
        return Destination(real)

    def file(self, flag: str, path: Path, is_own: Callable[[Path], bool], kind: str) -> Destination:
        """Return where a file goes that `flag` names and that is written in one piece.

        An existing file is replaced only if `is_own` says that we have written it; `kind` is what it must be, for the
        message.

        Raises:
            UsageError: `path` is a folder, a device, a pipe or another file; or it lies inside the images or a run.
            ResourceError: it cannot be written.
        """
        status = _status(flag, path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{flag} {path}: {refused_kind(status.st_mode) or 'is a device or a pipe'}", _HINT)
        self._check_place(flag, path, "Give a file outside of it")
        _check_parents(flag, path, _HINT)
        if status is not None:
            self._check_input(flag, path, status)
            if status.st_size and not is_own(path):
                raise UsageError(f"{flag} {path}: exists, and is not {kind}", _HINT)
        real = Path(os.path.realpath(path))
        _check_writable(real)
        return Destination(real)

    def _check_place(self, flag: str, path: Path, hint: str) -> None:
        for folder in _upwards(path):
            if (images := self._folders.get(_place_of(folder))) is not None:
                raise UsageError(f"{flag} {path}: lies inside the images of {images}", hint)
            if is_run_folder(folder):
                raise UsageError(f"{flag} {path}: lies inside the run {folder}", hint)

    def _check_existing(self, flag: str, path: Path, status: os.stat_result, overwrite: bool) -> None:
        """Check that the table at `path` may be replaced."""
        self._check_input(flag, path, status)
        if not status.st_size or (not overwrite and is_own_table(path)):
            return
        if not overwrite:
            hint = f"{_HINT}, or add --overwrite to replace it"
            raise UsageError(f"{flag} {path}: exists, and is not an unchanged table of predictions", hint)
        if not is_text(path):
            raise UsageError(f"{flag} {path}: is not a text file, and --overwrite replaces only such", _HINT)

    def _check_input(self, flag: str, path: Path, status: os.stat_result) -> None:
        """Check that the file at `path` is not in use by this command."""
        if (status.st_dev, status.st_ino) in map(identity_of, self._inputs):
            raise UsageError(f"{flag} {path}: is one of the files that this command reads", _HINT)
        if _is_same(status, 2):
            raise UsageError(f"{flag} {path}: receives the messages of this command", _HINT)


def refused_kind(mode: int) -> str | None:
    """Return why nothing is written to an existing file of this `mode` (`st_mode`); None if its kind is allowed."""
    if stat.S_ISDIR(mode):
        return "is a folder"
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return None
    return "is a disk" if stat.S_ISBLK(mode) else "is neither a file nor a pipe"


def is_run_folder(folder: Path) -> bool:
    """Return whether `folder` is that of a training run."""
    return os.path.isfile(folder / _RUN_SETTINGS) and any(os.path.exists(folder / name) for name in _RUN_FILES)


def is_text(path: Path) -> bool:
    """Return whether a file begins as text in UTF-8; images, models and archives do not."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental, as the last character may be cut in two
    except (OSError, UnicodeDecodeError):
        return False
    return b"\0" not in head


def identity_of(path: Path) -> Identity | None:
    """Return device and inode of a file or folder, links followed; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _place_of(folder: Path) -> Identity | Path:
    """Return device and inode of a folder; its path without links if it does not exist."""
    return identity_of(folder) or Path(os.path.realpath(folder))


def _status(flag: str, path: Path) -> os.stat_result | None:
    """Return what is at `path`, links followed; None if there is nothing."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a link to itself, a name that is too long
        raise UsageError(f"{flag} {path}: cannot be used ({getattr(error, 'strerror', error)})", _HINT) from error


def _is_same(status: os.stat_result | None, descriptor: int) -> bool:
    """Return whether `status` is that of what the `descriptor` is open on."""
    try:
        other = os.fstat(descriptor)
    except OSError:
        return False
    return status is not None and os.path.samestat(status, other)


def _upwards(path: Path) -> Iterator[Path]:
    """Yield `path` and all folders around it, with links resolved."""
    real = Path(os.path.realpath(path))  # unlike Path.resolve, never raises
    yield real
    yield from real.parents


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder`, which may be links to other places."""
    try:
        with os.scandir(folder) as entries:
            return [Path(each.path) for each in entries if each.is_dir()]
    except OSError:
        return []


def _check_parents(flag: str, path: Path, hint: str) -> None:
    existing = next((each for each in _upwards(path.parent) if os.path.lexists(each)), None)
    if existing is not None and not os.path.isdir(existing):
        raise UsageError(f"{flag} {path}: {existing} is a file, not a folder", hint)


def _check_writable(path: Path) -> None:
    for place in (path, next(each for each in path.parents if os.path.isdir(each))):
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), _HINT)
