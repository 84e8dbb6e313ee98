"""`python Engine.py evaluate`: scores a run on the images it set aside, or on other labelled images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from MLPipeline.commands.Destinations import answers_table, reserve
from MLPipeline.commands.OpenRun import OpenedRun, open_run
from MLPipeline.commands.RunImages import images_to_score
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, require_complete_stdout, say
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import GateMissedError
from MLPipeline.Evaluate import Scorer, SplitPredictions
from MLPipeline.Features import Dataset, extract
from MLPipeline.files.CsvFile import write_answers
from MLPipeline.files.Destination import Destination
from MLPipeline.files.Json import dump_json
from MLPipeline.files.RunFolder import find_run
from MLPipeline.images.ScanFolders import SPLITS
from MLPipeline.report.Report import counted, oddity_lines, per_class_lines, result_lines, stored_metrics, table_of
from MLPipeline.scoring.Predictions import require_finite
from MLPipeline.steps.MirrorViews import Mirror, with_mirror


def run(config: Config) -> None:
    """Print accuracy with its interval and a table of all classes; write predictions to `--csv`.

    Raises:
        UsageError: there is no such run, a label table cannot be used, or an output lies where nothing may be written.
        DataError: the images are gone or have changed, or are of classes that the model does not know.
        ResourceError: an output cannot be written, or the answer to `--json` could not be printed.
        GateMissedError: the accuracy is below `--min-accuracy`.
    """
    table = _check_outputs(config)  # before the model is loaded
    opened = open_run(config)
    config = _as_trained(config, opened)
    dataset, keys = _read_rows(opened, config)
    for each in dataset.skipped:
        note(f"skipped {each.path}: {each.reason}")
    scored = _score(opened, config, dataset, keys)
    if not ranks.is_first:
        return
    metrics = scored.metrics(opened.card.classes)
    if table:
        write_answers(table_of(dataset.index, scored), table)
    if config.json:
        say(dump_json(stored_metrics(metrics)))
    else:
        about = f"images   {counted(metrics['n'], f'{config.split} image')} of {dataset.index.root}"
        lines = [f"run      {opened.run.path}", about, "", *per_class_lines(metrics), "", *result_lines(metrics)]
        for line in lines:
            say(line, on_stderr=table is not None and table.is_stdout)
    if config.min_accuracy is not None and metrics["accuracy"] < config.min_accuracy:
        raise GateMissedError(
            f"accuracy {metrics['accuracy']:.4f} is below --min-accuracy {config.min_accuracy:g}",
            "Train longer, on more images, or with another model",
        )
    if config.json:
        require_complete_stdout()


def _score(opened: OpenedRun, config: Config, dataset: Dataset, keys: np.ndarray) -> SplitPredictions:
    """Return the predictions of the run on the split, calibrated; `keys` as `_read_rows` returns them."""
    card = opened.card.with_mirror() if config.tta else opened.card
    centers = card.fingerprint.centers if card.unknown and card.fingerprint else None
    scored = Scorer(opened.model, dataset, config.precision).predict(SPLITS.index(config.split), centers)
    if config.tta:
        scored = with_mirror(Mirror(opened.model, card, config, dataset, keys), scored)
    require_finite(scored.predictions.logits)
    return scored.used_with(card)


def _check_outputs(config: Config) -> Destination | None:
    """Return where to write the table; raises an error if something would be written among the images or into a run."""
    reserved = reserve(config, find_run(config.output, config.run))
    reserved.check_folder("--output", config.output)  # for the cache
    return answers_table(config, reserved)


def _as_trained(config: Config, opened: OpenedRun) -> Config:
    """Return the settings with those of the run on which the last digits depend, where they are not stated."""
    names = [name for name in ("precision", "cache_limit") if getattr(config, name) == getattr(Config, name)]
    stored: dict[str, Any] = {name: opened.settings[name] for name in names if name in opened.settings}
    if stored.get("precision") == "int8" and opened.model.quantized is None:  # which a note has said
        del stored["precision"]
    return replace(config, **stored)


def _read_rows(opened: OpenedRun, config: Config) -> tuple[Dataset, np.ndarray]:
    """Return the images with their rows, and the keys (N,) V16 of these."""
    images, card = images_to_score(opened, config), opened.card
    for line in oddity_lines(images.notes):
        note(line)
    dataset = extract(
        opened.model,
        images.index,
        card.image_size,
        config.output / "cache",
        config.precision,
        config.workers,
        progress,
        images.keys,
        cache_limit=config.cache_limit,
        preprocessing=card.preprocessing,
    )
    return dataset, images.keys
