"""The stored features of the images of a split, in memory, as heads are fitted on them."""

from __future__ import annotations

import logging

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.CreateDataset import drawing_chances
from MLPipeline.Errors import DivergedError
from MLPipeline.Evaluate import Scorer
from MLPipeline.Features import Dataset
from MLPipeline.Head import reads_roots
from MLPipeline.heads.HeadImages import HeadImages, square_roots
from MLPipeline.scoring.Predictions import in_eval_mode
from MLPipeline.training.Balance import class_weights

MAX_BYTES = 2**30  # of features in memory

logger = logging.getLogger(__name__)


def gather_images(model: Classifier, dataset: Dataset, positions: np.ndarray, config: Config) -> HeadImages:
    """Return the images at `positions` (N,) with their augmented views, weighted as `--balance` says.

    If all that takes too much memory, views and then images are left out, evenly.

    Raises:
        DivergedError: a feature is not finite.
    """
    index, num_classes = dataset.index, len(dataset.index.classes)
    row_bytes = 4 * len(gather(model, dataset, positions[:1], config.precision)[0])
    if len(positions) * row_bytes > MAX_BYTES:
        kept = positions[:: -(-len(positions) * row_bytes // MAX_BYTES)]
        logger.warning("the head is fitted on %d of %d images, for lack of memory", len(kept), len(positions))
        positions = kept
    num_views = min(dataset.num_views, MAX_BYTES // (len(positions) * row_bytes) - 1)
    rows = [inputs_of_head(model, dataset, positions, config.precision, view) for view in range(1 + num_views)]
    labels = index.labels[positions].astype(np.int64)
    groups = positions if index.groups is None else index.groups[positions].astype(np.int64)
    is_view = np.repeat(np.arange(1 + num_views) > 0, len(positions))
    copies = 1 + num_views
    weights = _weights(labels, num_classes, config.balance)
    return HeadImages(
        np.concatenate(rows),
        np.tile(labels, copies),
        num_classes,
        np.tile(groups, copies),
        np.tile(weights, copies),
        is_view,
        config.label_smoothing,
    )


def inputs_of_head(
    model: Classifier, dataset: Dataset, positions: np.ndarray, precision: str = "auto", view: int = 0
) -> np.ndarray:
    """Return what the linear layer of the head reads (N, D) float32: the features, or their square roots.

    Raises as `gather`.
    """
    rows = gather(model, dataset, positions, precision, view)
    return square_roots(rows) if reads_roots(model.head) else rows


def gather(
    model: Classifier, dataset: Dataset, positions: np.ndarray, precision: str = "auto", view: int = 0
) -> np.ndarray:
    """Return the features (N, D) float32 of the images at `positions`, or of an augmented view of each (1, 2, ...).

    Raises:
        DivergedError: a feature is not finite.
    """
    scorer = Scorer(model, dataset, precision)
    parts = []
    with in_eval_mode(model), torch.inference_mode():
        for first in range(0, len(positions), scorer.batch_size):
            rows = dataset.rows.take(positions[first : first + scorer.batch_size], view)
            parts.append(scorer.features(rows).float().cpu().numpy())
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise DivergedError("the frozen backbone gives features that are not finite", "Try --precision fp32")
    return features


def _weights(labels: np.ndarray, num_classes: int, balance: str) -> np.ndarray:
    """Return the weight (N,) float32 of each image in the loss, with a mean of 1."""
    known = torch.from_numpy(labels)
    if balance == "loss":
        return class_weights(known, num_classes)[known].numpy()
    if balance == "sampler":  # drawing each class equally often, in expectation
        return (drawing_chances(known, num_classes) * len(known)).float().numpy()
    return np.ones(len(labels), np.float32)
