"""`--find-lr`: suggests a learning rate, as a plot and a number; no model is trained."""

from __future__ import annotations

import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.console.Console import progress, say
from MLPipeline.Features import extract
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex
from MLPipeline.report.Drawing import drawing
from MLPipeline.steps.Prepare import preprocessing_of
from MLPipeline.training.FindLr import find_lr


def show_rates(
    model: Classifier, config: Config, index: ImageIndex, inspection: Inspection, device: torch.device
) -> None:
    """Print the learning rate that a range test suggests for the training that `config` describes; plot its losses."""
    cache, preprocessing = config.output / "cache", preprocessing_of(config, index, inspection)
    dataset = extract(
        model,
        index,
        config.image_size,
        cache,
        config.precision,
        config.workers,
        progress,
        inspection.row_keys(preprocessing.levels),
        preprocessing=preprocessing,
    )
    part = model if dataset.rows.are_pixels else model.trainable_part()
    train = dataset.batches(TRAIN, config.batch_size, config.seed)
    found = find_lr(part, train, config, device, progress)
    plot = config.output / "find_lr.png"
    drawing.draw("FindLrPlot.plot_find_lr", found.rates, found.losses, found.suggested, plot)
    drawing.finish()
    say(f"suggested --lr {found.suggested:g}: a tenth of the rate at which the loss was lowest")
    say(f"plot      {plot}")
