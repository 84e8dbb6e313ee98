"""The folder of one export: complete under its name, or not there at all.

with new_export(output, "003-resnet50-onnx") as folder:       # a temporary folder beside it
    ...                                                       # renamed at the end; removed after any error
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.AtomicFile import unwritable

REPORT_FILE = "export.json"  # written last: marks a folder as an export of ours


def export_path(output: Path, name: str) -> Path:
    """Return the path of the export called `name`; an earlier export there is replaced.

    Raises:
        UsageError: something else is there.
    """
    path = output / "export" / name
    if os.path.lexists(path) and not (path / REPORT_FILE).is_file():
        raise UsageError(f"{path}: exists and is not an export", "Move it away, or give another --output")
    return path


@contextlib.contextmanager
def new_export(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the name `path` when the block ends without an error, and else is removed.

    Raises:
        ResourceError: the disk is full, the folder cannot be written, or another process exports to it.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.name}.lock", timeout=0):
            for left_over in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}"):  # by a killed process
                shutil.rmtree(left_over)
            temporary.mkdir()
            try:
                yield temporary
                _replace(path, temporary)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except Timeout as error:
        raise ResourceError(f"{path}: another process is exporting to it", "Wait until it is done") from error
    except OSError as error:
        raise unwritable(path, error) from error


def _replace(path: Path, temporary: Path) -> None:
    """Rename `temporary` to `path`; an earlier export moves aside and is removed once the new one is in place."""
    if not path.exists():
        os.rename(temporary, path)
        return
    previous = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    os.rename(path, previous)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(previous, path)
        raise
    shutil.rmtree(previous, ignore_errors=True)
