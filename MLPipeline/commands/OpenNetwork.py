"""Whose features `embed` and `similar` compute: those of a run's model, or of a network with ImageNet weights."""

from __future__ import annotations

import os
from pathlib import Path

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Config import Config
from MLPipeline.console.Console import note
from MLPipeline.Device import join_ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.RunFolder import Run, find_run
from MLPipeline.frozen.NumberFormat import settle_format
from MLPipeline.similarity.FeatureNetwork import FeatureNetwork, Origin, pretrained_network

_CHOICES = "Give --model efficientnet_lite0 for a network with ImageNet weights, or --run RUN for a model of yours"


def chosen_run(config: Config, made_by: Origin | None = None) -> Run | None:
    """Return the run that `--run` names, or else the one that has `made_by` features, or else the newest.

    None stands for a network with ImageNet weights.

    Raises:
        UsageError: there is no such run, or both `--run` and `--model` are given.
    """
    if config.run is not None and config.model is not None:
        raise UsageError(f"--run {config.run} and --model {config.model}: name two models", "Give one of the two flags")
    if config.model is not None:
        return None
    if config.run is None and made_by is not None:
        if made_by.run and not os.path.isfile(made_by.run):
            raise UsageError(
                f"--in {config.in_}: made by {made_by.run}, which is gone", "Give its new place with --run"
            )
        return find_run(config.output, made_by.run) if made_by.run else None
    try:
        return find_run(config.output, config.run)
    except UsageError as error:
        raise error if config.run is not None else UsageError(error.what, _CHOICES) from error


def open_network(config: Config, run: Run | None, made_by: Origin | None = None) -> FeatureNetwork:
    """Return the network of `run`, or the one that `--model` names or that has `made_by` features; a note says which.

    Raises:
        UsageError: there is no such model or device, or it has no ImageNet weights.
        DataError: the checkpoint is damaged, or is not one of this project.
        ResourceError: the weights are not available.
    """
    device = join_ranks(config.device)
    if run is None:
        name = config.model or (made_by.network if made_by else "")
        network = pretrained_network(name, device)
    else:
        model, card = load_checkpoint(run.model_file)
        settle_format(model.to(device), config.precision)
        file = str(Path(os.path.abspath(run.model_file)))
        network = FeatureNetwork.from_model(model, card.model, card.image_size, card.preprocessing, file)
    note(f"using {network.origin.to_text()}")
    return network
