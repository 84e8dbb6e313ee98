"""Saves tensors atomically; loads them without running code, and detects damage that torch does not."""

from __future__ import annotations

import re
import stat
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from MLPipeline.Errors import DataError, ResourceError, is_out_of_memory, out_of_memory
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.ErrnoHints import errno_hint

DOS_FOLDER = 0x10  # a bit of the attributes in a zip archive's directory


def save_file(path: Path, content: object) -> None:
    """Write tensors in plain containers to `path`; the previous file is kept as `<name>.prev`.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """

    def write(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch reports a full disk as an internal error ("unexpected pos")
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    write_file(path, write, keep_previous=True)


def load_file(path: Path) -> object:
    """Return the content of a file of `torch.save` or safetensors: tensors on the CPU, in plain Python containers.

    A pickle can call any function when it is read; here only those that rebuild tensors are allowed.

    Raises:
        DataError: `path` is missing, not a regular file, empty, damaged, in another format, or has other objects.
        ResourceError: a `.safetensors` file, and that package is not installed; or there is not enough memory.
    """
    require_file(path)
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        if damaged := _damaged_part(path):
            raise DataError(f"{path}: corrupt (damage in {damaged!r})", "Fetch or save the file again")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old formats, which are rejected or read anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except (DataError, ResourceError):
        raise
    except Exception as error:  # damage can raise any error
        if is_out_of_memory(error):
            hint = "Close other programs, or use a smaller model"
            raise out_of_memory(error, f"while {path} was read", hint) from error
        raise _unreadable(path, error) from error


def require_file(path: Path) -> None:
    """Check that `path` is a regular file that is not empty; reading anything else may block.

    Raises:
        DataError: it is not.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", errno_hint(error, "Give the path of a file")) from error
    except ValueError as error:  # a null character in the name
        raise DataError(f"{path}: {error}", "Give the path of a file") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DataError(f"{path}: is {kind}", "Give the path of a file")
    if status.st_size == 0:
        raise DataError(f"{path}: is empty", "Fetch or save the file again")


def _damaged_part(path: Path) -> str | None:
    """Return the name of a part that fails its checksum or is marked as a folder: torch.load accepts both.

    It reads nothing from a folder, so the tensor contains whatever was in memory.
    """
    if not zipfile.is_zipfile(path):  # torch's format before 1.6, which has no checksums, or no torch file at all
        return None
    with zipfile.ZipFile(path) as archive:
        folders = [part.filename for part in archive.infolist() if part.file_size and part.external_attr & DOS_FOLDER]
        return folders[0] if folders else archive.testzip()


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file as load_tensors
    except ModuleNotFoundError as error:
        raise ResourceError(f"{path}: requires the package safetensors", "Run pip install safetensors") from error
    return load_tensors(path)


def _unreadable(path: Path, error: Exception) -> DataError:
    """Return a one-line error: is the file dangerous, or is it damaged?"""
    if culprit := re.search(r"GLOBAL (\S{1,80})", str(error)):
        return DataError(
            f"{path}: rejected, because it contains {culprit[1]!r}, which could run any code",
            "If you trust its source, load it yourself and save it with torch.save(model.state_dict(), FILE)",
        )
    return DataError(
        f"{path}: cannot be read; it is damaged, truncated or not a PyTorch file ({type(error).__name__})",
        "Fetch or save the file again",
    )
