"""Saves tensors whole or not at all; loads them without running code, and finds the damage that torch misses."""

from __future__ import annotations

import re
import stat
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.AtomicFile import write_file

DOS_FOLDER = 0x10  # a bit of the attributes in a zip archive's directory


def save_file(path: Path, content: object) -> None:
    """Write tensors in plain containers to `path`; the file before stays as `<name>.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """

    def write(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch reports a full disk as a defect of its own ("unexpected pos")
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    write_file(path, write, keep_previous=True)


def load_file(path: Path) -> object:
    """Return what `torch.save` (or safetensors) put into `path`: tensors on the CPU, in plain Python containers.

    A pickle may call any function when it is read; only those that rebuild tensors are allowed here.

    Raises:
        DataError: `path` is missing, no regular file, empty, damaged, of another format, or holds Python objects.
        ResourceError: a `.safetensors` file, and that package is not installed.
    """
    require_file(path)
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        if damaged := _damaged_part(path):
            raise DataError(f"{path}: corrupt (damage in {damaged!r})", "Fetch or save the file again")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on old formats, which are refused or read all the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except (DataError, ResourceError):
        raise
    except Exception as error:  # damage comes in as many kinds as there are lines that read the file
        raise _unreadable(path, error) from error


def require_file(path: Path) -> None:
    """Check that `path` is a regular file with something in it; anything else may block when it is read.

    Raises:
        DataError: it is not.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}", "Give the path of a file") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DataError(f"{path}: is {kind}", "Give the path of a file")
    if status.st_size == 0:
        raise DataError(f"{path}: is empty", "Fetch or save the file again")


def _damaged_part(path: Path) -> str | None:
    """Return the name of a part that fails its checksum, or is marked as a folder: torch.load takes both in silence.

    Of a folder it reads nothing, and the tensor then holds whatever was in the memory before.
    """
    if not zipfile.is_zipfile(path):  # torch's format before 1.6, which has no checksums, or no torch file at all
        return None
    with zipfile.ZipFile(path) as archive:
        folders = [part.filename for part in archive.infolist() if part.file_size and part.external_attr & DOS_FOLDER]
        return folders[0] if folders else archive.testzip()


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file as load_tensors
    except ImportError as error:
        raise ResourceError(f"{path}: reading it takes a package", "pip install safetensors") from error
    return load_tensors(path)


def _unreadable(path: Path, error: Exception) -> DataError:
    """Return the one line for what torch says in many: is the file dangerous, or is it damaged?"""
    if culprit := re.search(r"GLOBAL (\S{1,80})", str(error)):
        return DataError(
            f"{path}: refused, for beside tensors it holds {culprit[1]!r}, which could run any code",
            "Where you trust its maker, load it there and save it again with torch.save(model.state_dict(), FILE)",
        )
    return DataError(
        f"{path}: cannot be read, for it is damaged, cut short or no file of torch's ({type(error).__name__})",
        "Fetch or save the file again",
    )
