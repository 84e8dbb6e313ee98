"""`python Engine.py evaluate`: scores a run on the images it set aside, or on other labelled folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from MLPipeline.Checkpoint import ModelCard, load_checkpoint
from MLPipeline.Config import Config, read_settings
from MLPipeline.console.Console import note, progress, say
from MLPipeline.Device import join_ranks
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, GateMissedError
from MLPipeline.Evaluate import Scorer, SplitPredictions
from MLPipeline.Features import extract
from MLPipeline.files.CsvFile import cell_text, write_csv
from MLPipeline.files.RunFolder import Run, find_run
from MLPipeline.images.ScanFolders import SPLITS, UNSPLIT, ImageIndex, scan_folders
from MLPipeline.report.Report import counted, oddity_lines, per_class_lines, result_lines, table_of


def run(config: Config) -> None:
    """Print accuracy with its interval and a table of all classes; write predictions to `--csv`.

    Raises:
        UsageError: no such run.
        DataError: the images are gone, or are of classes that the model does not know.
        GateMissedError: the accuracy is under `--min-accuracy`.
    """
    run = find_run(config.output, config.run)
    model, card = load_checkpoint(run.model_file)
    split = SPLITS.index(config.split)
    model.to(join_ranks(config.device)).freeze("backbone")
    index = _labelled_folders(config, card, split) if config.data else _own_images(run, card, split)
    ranks.require_same({"images": index.identity})
    dataset = extract(
        model,
        index,
        card.image_size,
        config.output / "cache",
        config.precision,
        config.workers,
        progress,
        preprocessing=card.preprocessing,
    )
    for each in dataset.skipped:
        note(f"skipped {each.path}: {each.reason}")
    for line in oddity_lines(dataset.notes):
        note(line)
    centers = card.fingerprint.centers if card.unknown and card.fingerprint else None
    scored = Scorer(model, dataset, config.precision).predict(split, centers).used_with(card)
    if not ranks.is_first:
        return
    metrics = scored.metrics(card.classes)
    if config.csv:
        write_csv(table_of(dataset.index, scored), config.csv)
    if config.json:
        note(f"using {run.model_file}")
        say(json.dumps(metrics))
    else:
        say(f"run      {run.path}")
        say(f"images   {counted(metrics['n'], f'{config.split} image')} of {index.root}")
        _say_result(scored, metrics)
    if config.min_accuracy is not None and metrics["accuracy"] < config.min_accuracy:
        raise GateMissedError(
            f"accuracy {metrics['accuracy']:.4f} is under --min-accuracy {config.min_accuracy:g}",
            "Train longer, on more images, or with another model",
        )


def _say_result(scored: SplitPredictions, metrics: Mapping[str, Any]) -> None:
    say()
    for line in (*per_class_lines(metrics), "", *result_lines(metrics)):
        say(line)


def _labelled_folders(config: Config, card: ModelCard, split: int) -> ImageIndex:
    """Return all images of a bare root, or the chosen split of split folders."""
    index = scan_folders(config.data, config.follow_links, card.classes)
    return _only(index, split, np.isin(index.splits, (UNSPLIT, split)))


def _own_images(run: Run, card: ModelCard, split: int) -> ImageIndex:
    """Return the images that the run itself put into the chosen split; its folder may have gained classes since."""
    wanted, settings = _images_of(run, split), read_settings(run.path / "config.json")
    index = scan_folders(Path(settings["data"]), settings.get("follow_links", False))
    chosen = np.array([cell_text(index.name(position)) in wanted for position in range(len(index))], bool)
    if missing := len(wanted) - int(chosen.sum()):
        note(f"{missing} of the run's {counted(len(wanted), f'{SPLITS[split]} image')} are gone from {index.root}")
    label_of = {name: label for label, name in enumerate(card.classes)}
    labels = np.array([label_of.get(name, 0) for name in index.classes], np.int32)[index.labels]
    return _only(replace(index, classes=card.classes, labels=labels), split, chosen)


def _images_of(run: Run, split: int) -> set[str]:
    """Return the paths that the run's `splits.csv` lists for a split, as they are written there."""
    table = run.path / "splits.csv"
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        return set(rows["path"][rows["split"] == SPLITS[split]])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{table}: cannot be read as a table of images", "Give labelled images with --data") from error


def _only(index: ImageIndex, split: int, chosen: np.ndarray) -> ImageIndex:
    if not chosen.any():
        raise DataError(f"{index.root}: no {SPLITS[split]} images", "Give --data FOLDER or another --split")
    return replace(index, splits=np.where(chosen, split, UNSPLIT).astype(np.int8))
