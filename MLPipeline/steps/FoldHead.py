"""`--folds K` where the backbone is frozen: each image is tested by a head that was fitted without its fold."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from MLPipeline.Config import Config
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
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions, in_eval_mode, predict_batches
from MLPipeline.steps.Job import Job
from MLPipeline.Train import fit
from MLPipeline.training.Phases import is_solved

_NUM_PARTS = 5  # one of which chooses the epoch, where the head of a fold is trained by gradient descent


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


def fit_fold_heads(job: Job, dataset: Dataset) -> tuple[SplitPredictions, Mapping[int, int]]:
    """Return the predictions for all images, and the classes of fewer folds, with their numbers.

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
    return SplitPredictions(TEST, tested, Predictions(torch.from_numpy(found.logits), labels)), found.short


def _solver(config: Config) -> Fit:
    """Return what solves the head of a fold."""
    return lambda images: solve(images, config.head, config.seed).head.logits


def _descender(job: Job) -> Fit:
    """Return what trains the head of a fold as that of the run: from the same weights, with an epoch chosen inside."""
    config, first = job.config, job.initial
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
