"""Where `label` writes: never among the photographs, in a run, or over something that is not a table of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import STDOUT, Reserved
from MLPipeline.files.FileNames import shorten, visible_name
from MLPipeline.files.SortedCopies import SortedCopies

_MAX_BYTES = 100  # of the name of a folder


def labels_file(config: Config, photographs: Path) -> Path:
    """Return the file of the labels: `--csv`, or `output/labels/<name of the folder>/labels.csv`.

    Raises:
        UsageError: it lies among the photographs or in a run, or is a folder or a stream.
    """
    name = shorten(visible_name(photographs.resolve().name), _MAX_BYTES) or "photographs"
    return _file(config, photographs, config.output / "labels" / name / "labels.csv")


def fixes_file(config: Config, data: Path, run_name: str) -> Path:
    """Return the file of the decisions of a review: `--csv`, or `output/labels/<name of the run>/fixes.csv`.

    Raises:
        UsageError: it lies among the images or in a run, or is a folder or a stream.
    """
    return _file(config, data, config.output / "labels" / run_name / "fixes.csv")


def exported_copies(config: Config, photographs: Path, classes: Sequence[str]) -> SortedCopies:
    """Return what copies pictures into the class folders of `--export-folders`.

    Raises:
        UsageError: the folder lies among the photographs or in a run, or is a file.
    """
    assert config.export_folders is not None
    return SortedCopies(config.export_folders, classes, Reserved([photographs]), "--export-folders")


def _file(config: Config, images: Path, default: Path) -> Path:
    reserved, file = Reserved([images]), config.csv
    if file is None:
        reserved.check_folder("--output", config.output)
        return default
    if file == STDOUT or (os.path.lexists(file) and not os.path.isfile(file)):
        raise UsageError(f"--csv {file}: is not a regular file", "Give a file such as labels.csv")
    reserved.check_folder("--csv", file.parent)
    return file
