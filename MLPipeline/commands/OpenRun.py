"""What every verb that uses a run begins with: the run, its model on the device, the images that are named.

opened = open_run(config)                   # --run, or the newest; a note says which
files = named_images(config)                # paths, folders and globs of the command line
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MLPipeline.Checkpoint import ModelCard, load_checkpoint
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config, read_settings
from MLPipeline.console.Console import note
from MLPipeline.Device import join_ranks
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.RunFolder import SETTINGS_FILE, Run, find_run
from MLPipeline.Predict import find_images


@dataclass(frozen=True)
class OpenedRun:
    """A run and its model, ready to compute."""

    run: Run
    model: Classifier  # in eval mode, on the device
    card: ModelCard
    settings: Mapping[str, Any]  # of the run, by field of Config; empty for a model file from elsewhere


def open_run(config: Config) -> OpenedRun:
    """Return the run that `config` names, or else the newest, with its model; a note says which it is.

    Raises:
        UsageError: there is no such run or device.
        DataError: the checkpoint is damaged, or not ours.
    """
    run = find_run(config.output, config.run)
    model, card = load_checkpoint(run.model_file)
    device = join_ranks(config.device)
    note(f"using {run.model_file}")
    settings: dict[str, Any] = {}
    with suppress(UsageError):
        settings = read_settings(run.path / SETTINGS_FILE)
    return OpenedRun(run, model.to(device), card, settings)


def named_images(config: Config) -> list[Path]:
    """Return the image files that the paths, folders and globs of the command line name; notes say what is skipped.

    Raises:
        DataError: a path does not exist, or none of the files is an image.
    """
    files, skipped = find_images(config.paths, config.follow_links)
    for each in skipped:
        note(f"skipped {each.path}: {each.reason}")
    ranks.require_same({"images": "\n".join(map(str, files))})
    return files
