"""What every verb that uses a run begins with: the run, and its model on the device.

opened = open_run(config)                   # --run, or the newest; a note says which
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from MLPipeline.Checkpoint import ModelCard, load_checkpoint
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config, read_settings
from MLPipeline.console.Console import note
from MLPipeline.Device import join_ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.RunFolder import SETTINGS_FILE, Run, find_run
from MLPipeline.frozen.NumberFormat import settle_format


@dataclass(frozen=True)
class OpenedRun:
    """A run and its model, ready to compute."""

    run: Run
    model: Classifier  # in eval mode, on the device
    card: ModelCard
    settings: Mapping[str, Any]  # of the run, by field of Config; empty for a model file from elsewhere


def open_run(config: Config) -> OpenedRun:
    """Return the run that `--run` names, or else the newest, with its model; a note says which it is.

    Raises:
        UsageError: there is no such run or device.
        DataError: the checkpoint is damaged, or is not one of this project.
        ResourceError: int8 is stated, and there are no kernels for it.
    """
    run = find_run(config.output, config.run)
    model, card = load_checkpoint(run.model_file)
    device = join_ranks(config.device)
    note(f"using {run.model_file}")
    settings: dict[str, Any] = {}
    if os.path.lexists(run.path / SETTINGS_FILE):
        try:
            settings = read_settings(run.path / SETTINGS_FILE)
        except UsageError as error:
            note(f"{error.what.removeprefix('--config ')}: the defaults are used instead")
    settle_format(model.to(device), config.precision)
    return OpenedRun(run, model, card, settings)
