"""Saves tensors atomically; loads them without running code, within the memory that the size of the file suggests."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from MLPipeline.Errors import DataError, PipelineError, ResourceError, is_out_of_memory, out_of_memory
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.ErrnoHints import errno_hint
from MLPipeline.files.PlainFile import UnusableFileError, open_regular
from MLPipeline.files.SafetensorsOutline import read_safetensors_outline
from MLPipeline.files.TensorOutline import ForbiddenError, UnusualTensorError, is_archive, read_outline

_AGAIN = "Fetch or save the file again"

Check = Callable[[Any], object]


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


def load_file(path: Path, check: Check | None = None) -> object:
    """Return the content of a file of `torch.save` or safetensors: tensors on the CPU, in plain Python containers.

    A pickle can call any function when it is read, and ask for any amount of memory; here it can do neither. `check` is
    given the content with a `TensorOutline` in place of each tensor, before any tensor is read, and may raise an error.

    Raises:
        DataError: `path` is missing, not a regular file, empty, damaged, in another format, or contains other objects
            or tensors that are not dense.
        ResourceError: a `.safetensors` file, and that package is not installed; or there is not enough memory.
    """
    load_tensors = _safetensors_loader(path) if path.suffix == ".safetensors" else None
    try:
        with _opened(path) as file:
            outline = read_safetensors_outline(file) if load_tensors else read_outline(file)
            if check is not None:
                check(outline)
            if load_tensors:
                return load_tensors(path)
            if is_archive(file):
                _check_sums(path, file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of old formats, which are read all the same
                return torch.load(file, map_location="cpu", weights_only=True)
    except PipelineError:
        raise
    except Exception as error:  # damage can raise any error
        if is_out_of_memory(error):
            hint = "Close other programs, or use a smaller model"
            raise out_of_memory(error, f"while {path} was read", hint) from error
        raise _unreadable(path, error) from error


def _opened(path: Path) -> BinaryIO:
    """Return the file `path`, opened for reading; it is a regular file and not empty."""
    try:
        file = open_regular(path)
    except UnusableFileError as error:
        cause, hint = error.__cause__, "Give the path of a file"
        hint = errno_hint(cause, hint) if isinstance(cause, OSError) else hint
        raise DataError(f"{path}: {error}", hint) from error
    if not file.peek(1):  # type: ignore[attr-defined]  # it is buffered
        file.close()
        raise DataError(f"{path}: is empty", _AGAIN)
    return file


def _check_sums(path: Path, file: BinaryIO) -> None:
    """Compare the checksums of all parts of the archive with their content: torch.load does not."""
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise DataError(f"{path}: corrupt (damage in {damaged!r})", _AGAIN)


def _safetensors_loader(path: Path) -> Callable[[Path], object]:
    try:
        from safetensors.torch import load_file as load_tensors
    except ModuleNotFoundError as error:
        raise ResourceError(f"{path}: requires the package safetensors", "Run pip install safetensors") from error
    return load_tensors


def _unreadable(path: Path, error: Exception) -> DataError:
    """Return a one-line error: is the file dangerous, or is it damaged?"""
    if isinstance(error, ForbiddenError):
        return DataError(
            f"{path}: rejected, because it contains {str(error)[:80]!r}, which could run any code",
            "If you trust its source, load it yourself and save it with torch.save(model.state_dict(), FILE)",
        )
    if isinstance(error, UnusualTensorError):
        return DataError(
            f"{path}: contains a tensor that is not read: {error}",
            "Save plain, dense tensors: torch.save(model.state_dict(), FILE)",
        )
    reason = str(error) if isinstance(error, ValueError) and error.args else type(error).__name__
    reason = reason.splitlines()[0][:120]
    return DataError(f"{path}: cannot be read; it is damaged, truncated or not a PyTorch file ({reason})", _AGAIN)
