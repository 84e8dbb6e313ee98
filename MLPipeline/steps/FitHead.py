"""The head of a frozen backbone in closed form, in place of the epochs of gradient descent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from MLPipeline.Config import Config
from MLPipeline.console.Console import note, say
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Features import Dataset
from MLPipeline.Head import ROOTS, reads_roots, set_layer
from MLPipeline.heads.Ensemble import NOT_COMPARED, Ensemble
from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.GatherFeatures import gather_images, inputs_of_head
from MLPipeline.heads.HeadImages import HeadImages, plain_images
from MLPipeline.heads.LinearHead import LinearHead
from MLPipeline.heads.SolveHead import NUM_FOLDS, Candidate, Solution, solve
from MLPipeline.images.ScanFolders import TRAIN, VAL
from MLPipeline.report.Report import epoch_line
from MLPipeline.scoring.Calibrate import calibrated
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.steps.Job import Job
from MLPipeline.training.Phases import folds_are_heads
from MLPipeline.training.TrainState import EpochRecord, TrainState

_AVERAGE_OR_OWN = "the average of the heads of all folds", "the head fitted on all training images"


def solved_epochs(job: Job, dataset: Dataset, config: Config, state: TrainState) -> Iterator[EpochRecord]:
    """Fit the head of the model, say how it was chosen, and yield its figures as those of a single epoch.

    Rank 0 alone fits it: with features at hand, that takes seconds.

    Raises:
        DivergedError: a feature is not finite.
        ResourceError: the cache cannot be written.
    """
    start = time.perf_counter()
    found = ranks.from_first(_fit(job, dataset, config) if ranks.is_first else None)
    assert found is not None
    solution, figures = found
    has_roots, head = reads_roots(job.model.head), solution.head
    job.fitted = _figures(config, solution) | {"inputs": ROOTS if has_roots else "features"}
    set_layer(job.model.head, torch.from_numpy(head.weights), torch.from_numpy(head.bias))
    for line in (*solution_lines(solution, has_roots), epoch_line(None)):
        say(line)
    record = EpochRecord(1, *figures, lr=0.0, seconds=time.perf_counter() - start, is_best=True)
    state.end_epoch(record)
    yield record


def _fit(job: Job, dataset: Dataset, config: Config) -> tuple[Solution, tuple[float, float, float, float]]:
    """Return the head, and its loss and accuracy on the training and the validation images."""
    index = dataset.index
    images = gather_images(job.model, dataset, index.positions(TRAIN), config)
    cache = None if dataset.rows.are_pixels else config.output / "cache"  # there was no room for features
    solution = solve(images, config.head, config.seed, cache)
    fitted, val = images.only(~images.is_view), index.positions(VAL)
    averages_heads = config.ensemble and folds_are_heads(job.config)  # else the networks of the folds are averaged
    if not len(val):
        if averages_heads:
            note(NOT_COMPARED)
        return solution, (*_score(solution.head, fitted), np.nan, np.nan)
    rows = inputs_of_head(job.model, dataset, val, config.precision)
    labels = index.labels[val].astype(np.int64)
    held_out = plain_images(rows, labels, images.num_classes)
    if averages_heads:
        solution = _with_ensemble(solution, images, held_out, config)
    is_tuned = config.unfreeze_after is not None  # its epochs are compared by the calibrated loss; see Train.score
    return solution, (*_score(solution.head, fitted), *_score(solution.head, held_out, is_tuned))


def _with_ensemble(solution: Solution, images: HeadImages, held_out: HeadImages, config: Config) -> Solution:
    """Return `solution` with the average of the heads of all folds, if its loss on the images held out is lower.

    The head of a fold is fitted without it. The average of the weights of linear heads gives the average of their
    logits, so the average is a single layer again.
    """
    folds = assign_folds(images.labels, images.groups, config.folds or 0, config.seed)
    parts = [images.only(folds != fold) for fold in np.unique(folds)]
    known = [part for part in parts if len(np.unique(part.labels)) == images.num_classes]
    heads = [solve(part, config.head, config.seed).head for part in known]
    if not heads:  # every fold has all images of some class
        return solution
    average = sum(heads[1:], start=heads[0]).scaled(1 / len(heads))
    alone, together = (_score(head, held_out)[0] for head in (solution.head, average))
    return replace(solution, head=average if together < alone else solution.head, ensemble=Ensemble(alone, together))


def _score(head: LinearHead, images: HeadImages, is_calibrated: bool = False) -> tuple[float, float]:
    predictions = Predictions(torch.from_numpy(head.logits(images.rows)), torch.from_numpy(images.labels))
    predictions = calibrated(predictions) if is_calibrated else predictions
    return predictions.loss, predictions.accuracy


def solution_lines(solution: Solution, has_roots: bool) -> list[str]:
    """Return the lines for the console about the choice of the head, which reads the features or their roots."""
    on_roots = ["         each on the square roots of the features"] if has_roots else []
    if not solution.candidates:
        return [f"head     {solution.chosen.to_text()}: there are too few images of each class to compare heads"]
    others = [each for each in solution.candidates if each is not solution.chosen]
    return [
        f"head     {_scored(solution.chosen)} out of fold ({solution.num_images:,} images, {NUM_FOLDS} folds)",
        *(f"         {_scored(each)}" for each in others),
        *on_roots,
        *([solution.ensemble.to_line(*_AVERAGE_OR_OWN)] if solution.ensemble else []),
    ]


def _scored(candidate: Candidate) -> str:
    return f"{candidate.to_text()}: accuracy {100 * candidate.accuracy:.1f} %, loss {candidate.loss:.4f}"


def _figures(config: Config, solution: Solution) -> dict[str, Any]:
    """Return the entry `head` of `metrics.json`: the setting, what was chosen, and the figures out of fold."""
    return {
        "setting": config.head,
        "chosen": solution.chosen.kind,
        "penalty": solution.chosen.penalty,
        "num_images": solution.num_images,
        "ensemble": solution.ensemble.to_plain() if solution.ensemble else None,
        "out_of_fold": [
            {"kind": each.kind, "penalty": each.penalty, "loss": each.loss, "accuracy": each.accuracy}
            for each in solution.candidates
        ],
    }
