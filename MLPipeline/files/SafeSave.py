"""Writes what torch saves, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch

from MLPipeline.files.AtomicFile import write_file


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
