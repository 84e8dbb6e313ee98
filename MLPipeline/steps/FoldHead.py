"""`--folds K`: the accuracy over all images, each tested once by a head that was fitted without its fold."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from MLPipeline.Config import Config
from MLPipeline.console.Console import say
from MLPipeline.CreateDataset import Batches
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.Features import Dataset
from MLPipeline.heads.CrossValidate import Answer, Fit, cross_validate
from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.GatherFeatures import gather_images
from MLPipeline.heads.HeadImages import HeadImages
from MLPipeline.heads.SolveHead import solve
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.report.Report import counted
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions, in_eval_mode, predict_batches
from MLPipeline.steps.Job import Job
from MLPipeline.Train import fit
from MLPipeline.training.Phases import is_solved

_NUM_PARTS = 5  # one of which chooses the epoch, where the head of a fold is trained by gradient descent
_MAX_NAMED = 5  # classes with fewer folds


@dataclass(frozen=True)
class FoldRows:
    """The features of the images of one fold's training."""

    features: Tensor  # (N, D) float32

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.features[0].nbytes

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return the features (B, D) of these images."""
        return self.features[torch.from_numpy(positions)]


def fold_predictions(job: Job, dataset: Dataset) -> tuple[SplitPredictions, dict[str, Any]]:
    """Return the predictions for all images, in place of those for test images, and the entry `folds` of metrics.json.

    The model of the run is not changed, nor does it make these predictions: it was fitted on most of the images.
    """
    config, index = job.config, dataset.index
    positions = np.flatnonzero(index.splits >= 0)
    images = gather_images(job.model, dataset, positions, config)
    assert config.folds is not None
    if is_solved(config):  # in seconds, by rank 0 alone
        found = cross_validate(images, _solver(config), config.folds, config.seed) if ranks.is_first else None
        found = ranks.from_first(found)
        assert found is not None
    else:
        found = cross_validate(images, _descender(job), config.folds, config.seed)
    tested, labels = positions[found.tested], torch.from_numpy(images.labels[found.tested])
    predictions = Predictions(torch.from_numpy(found.logits), labels)
    names = {index.classes[label]: number for label, number in found.short.items()}
    for line in fold_lines(config.folds, len(tested), names):
        say(line)
    figures = {"number": config.folds, "num_images": len(tested), "classes_of_fewer_folds": names}
    return SplitPredictions(TEST, tested, predictions), figures


def fold_lines(num_folds: int, num_images: int, short: dict[str, int]) -> list[str]:
    """Return the lines for the console about the folds; `short` has the classes of fewer folds, with their numbers."""
    lines = [f"folds    {counted(num_images, 'image')} tested once each, in {num_folds} folds"]
    for name, number in list(short.items())[:_MAX_NAMED]:
        how = f"only {counted(number, 'fold')} test it" if number > 1 else "it is not tested, as it has nothing else"
        lines.append(f"         class {name} has too few images that are not copies: {how}")
    if len(short) > _MAX_NAMED:
        lines.append(f"         and {len(short) - _MAX_NAMED} more classes")
    return lines


def _solver(config: Config) -> Fit:
    """Return what solves the head of a fold."""
    return lambda images: solve(images, config.head, config.seed).head.logits


def _descender(job: Job) -> Fit:
    """Return what trains the head of a fold as that of the run: from the same weights, with an epoch chosen inside."""
    config, first = job.config, job.first_head
    assert first is not None

    def fit_head(images: HeadImages) -> Answer:
        part = nn.Sequential(nn.Sequential(), copy.deepcopy(first))
        folds = assign_folds(images.labels, images.groups, _NUM_PARTS, config.seed)
        splits = np.where(folds == 0, VAL, TRAIN).astype(np.int8)
        index = replace(job.index, labels=images.labels, splits=splits)
        rows = FoldRows(torch.from_numpy(images.rows))
        train = Batches(rows, index, TRAIN, config.batch_size, config.seed, balanced=config.balance == "sampler")
        val = Batches(rows, index, VAL, config.batch_size)
        for _ in fit(part, train, val, config, job.device):
            pass
        temperature = fit_temperature(predict_batches(part, val, job.device, len(index.classes)))

        def answer(features: np.ndarray) -> np.ndarray:
            with in_eval_mode(part), torch.inference_mode():
                logits = part(torch.from_numpy(features).to(job.device)) / temperature
            return logits.float().cpu().numpy()

        return answer

    return fit_head
