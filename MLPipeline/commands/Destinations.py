"""Where the commands that use a model may write, decided from the command line before it is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from MLPipeline.Config import DEFAULT_DATA, Config, read_settings
from MLPipeline.decoding.ReadImage import FOREIGN_SUFFIXES, IMAGE_SUFFIXES
from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import Destination, Reserved
from MLPipeline.files.RunFolder import RUNS_TABLE, SETTINGS_FILE, Run, recorded_data


def reserve(config: Config, run: Run | None, folders: Iterable[Path] = (), files: Iterable[Path] = ()) -> Reserved:
    """Return the places that a command on `run` must not write to.

    These are the folders of its labelled images and of those that the run (if there is one) was trained on, the
    `folders`, the `files`, and the tables that it reads.
    """
    folders = [each for each in (config.data, *folders) if each is not None and os.path.isdir(each)]
    inputs = [each for each in (config.labels, config.fixes, config.config) if each is not None]
    if run is not None:
        with contextlib.suppress(UsageError):  # a single model file has no settings
            folders.append(Path(read_settings(run.path / SETTINGS_FILE).get("data", DEFAULT_DATA)))
        folders += [recorded] if (recorded := recorded_data(run.path)) else []
        inputs.append(run.model_file)
    return Reserved([DEFAULT_DATA, *folders], [*files, *inputs, config.output / RUNS_TABLE])


def answers_table(config: Config, reserved: Reserved) -> Destination | None:
    """Return where `--csv` puts the table; None if no table is asked for.

    Raises:
        UsageError: it would replace something that is not a table of predictions, or lie where nothing may be written.
        ResourceError: it cannot be written.
    """
    if config.csv is None:
        return None
    suffix = config.csv.suffix.lower()
    if suffix in IMAGE_SUFFIXES | FOREIGN_SUFFIXES:
        what = f"--csv {config.csv}: {suffix} is the suffix of an image file"
        raise UsageError(what, "Give a file such as answers.csv")
    destination = reserved.table("--csv", config.csv, config.overwrite)
    if destination.is_stdout and config.json:
        raise UsageError(f"--csv {config.csv} and --json: both write to standard output", "Give --csv a file")
    return destination
