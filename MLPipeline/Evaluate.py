"""Runs a trained model on labelled images, and calibrates it on the validation images.

N images of a split, B of a batch, C classes, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import one_hot
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Features import Dataset
from MLPipeline.frozen.FastForward import FastForward, forward_batch
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, ImageIndex
from MLPipeline.scoring.Calibrate import calibrated, fit_temperature
from MLPipeline.scoring.Metrics import evaluate
from MLPipeline.scoring.Predictions import Predictions, in_eval_mode
from MLPipeline.scoring.Unknown import (
    FeatureCenters,
    UnknownRule,
    distances_to,
    fit_unknown,
    on_other_images,
    usual_distance,
)

_IMAGES_PER_CENTER = 200  # of each class; distances from 50 images were as good

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions on one split, and the positions of its images in the index."""

    split: int
    positions: np.ndarray
    predictions: Predictions
    distances: Tensor = field(default_factory=lambda: torch.empty(0))  # (N,) to the nearest class center, if computed
    unknown: UnknownRule | None = None  # the rule for withholding answers, with its figures on this split
    is_withheld: Tensor | None = None  # (N,) bool; None without a rule

    def used_with(self, card: ModelCard) -> SplitPredictions:
        """Return these predictions with the temperature and the rule of `card` applied, as `predict` does."""
        used = replace(self, predictions=self.predictions.scaled(card.temperature))
        if card.unknown is None or card.fingerprint is None:
            return used
        is_far = card.fingerprint.is_far(self.distances)
        return replace(
            used,
            unknown=on_other_images(card.unknown, used.predictions, is_far),
            is_withheld=card.unknown.is_withheld(used.predictions.confidence, is_far),
        )

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the metrics of the predictions; the entry `unknown` has the rule, coverage and precision, or None."""
        return evaluate(self.predictions, classes) | {"unknown": asdict(self.unknown) if self.unknown else None}


class Scorer:
    """Runs a trained `model` on the stored rows of `dataset`, with the same forward pass as `predict`."""

    def __init__(self, model: Classifier, dataset: Dataset, precision: str = "auto") -> None:
        self.model, self.dataset, self.device = model, dataset, model.mean.device
        self.batch_size = forward_batch(self.device, dataset.image_size)
        self._forward: FastForward | None = None
        if dataset.rows.are_pixels:
            model.freeze("backbone")
            self._forward = FastForward(model, dataset.image_size, precision)

    def predict(self, split: int, centers: Tensor | None = None) -> SplitPredictions:
        """Return the predictions on `split`, and with `centers` (see `class_centers`) also the distances to them."""
        epoch = self.dataset.batches(split, self.batch_size * ranks.size).epoch(0)
        index, positions = self.dataset.index, self.dataset.index.positions(split)
        logits, distances = [torch.empty(0, len(index.classes))], [torch.empty(0)]
        with in_eval_mode(self.model), torch.inference_mode():
            for rows, _ in epoch:
                if not len(rows):  # fewer images than ranks
                    continue
                features = self.features(rows)
                logits.append(self.model.head(features).float().cpu())
                distances.append(distances_to(centers, features.cpu()) if centers is not None else torch.empty(0))
        all_logits = ranks.merge(epoch.places, torch.cat(logits), len(positions))
        labels = torch.from_numpy(index.labels[positions]).long()
        all_distances = torch.empty(0)
        if centers is not None:
            all_distances = ranks.merge(epoch.places, torch.cat(distances), len(positions))
        return SplitPredictions(split, positions, Predictions(all_logits, labels), all_distances)

    def class_centers(self) -> Tensor:
        """Return the mean features of each class as unit vectors (C, D) float16, from up to 200 training images."""
        index, sums = self.dataset.index, torch.zeros(())
        positions = center_positions(index)[ranks.dealt]
        with in_eval_mode(self.model), torch.inference_mode():
            for first in range(0, len(positions), self.batch_size):
                batch = positions[first : first + self.batch_size]
                targets = one_hot(torch.from_numpy(index.labels[batch]).long(), len(index.classes))
                sums = sums + targets.T.double() @ self.features(self.dataset.rows.take(batch, 0)).cpu().double()
        return normalize(sum(ranks.gather(sums), torch.zeros(())), dim=1).half()

    def features(self, rows: Tensor) -> Tensor:
        """Return the features (B, D) float32, on the device, of stored rows (B, ...)."""
        if self._forward is None:
            return self.model.trainable_features(rows.to(self.device))
        return self._forward(rows).to(self.device).float()


def center_positions(index: ImageIndex) -> np.ndarray:
    """Return the positions (M,) of the training images that `Scorer.class_centers` averages."""
    chosen = []
    for label in range(len(index.classes)):
        members = np.flatnonzero((index.labels == label) & (index.splits == TRAIN))
        chosen.append(members[:: -(-len(members) // _IMAGES_PER_CENTER)])
    return np.concatenate(chosen)


def predict_split(model: Classifier, dataset: Dataset, split: int, precision: str = "auto") -> SplitPredictions:
    """Return the predictions of a trained `model` on one split."""
    return Scorer(model, dataset, precision).predict(split)


def validate(model: Classifier, dataset: Dataset, precision: str = "auto") -> Predictions:
    """Return the predictions of `model` on the validation images, at the temperature that suits them best."""
    return calibrated(predict_split(model, dataset, VAL, precision).predictions)


def calibrate_and_score(
    model: Classifier, dataset: Dataset, card: ModelCard, precision: str = "auto", target_precision: float | None = None
) -> tuple[ModelCard, list[SplitPredictions]]:
    """Return the card of a trained `model` after calibration, and its predictions on validation and test images.

    Calibration sets the temperature, the centers of the training features, and with a `target_precision` the rule for
    withholding answers; everything except the centers is fitted on the validation images.
    """
    scorer = Scorer(model, dataset, precision)
    centers = scorer.class_centers()
    val, test = (scorer.predict(split, centers) for split in (VAL, TEST))
    fingerprint = FeatureCenters(centers, usual_distance(val.distances))
    card = replace(card, temperature=fit_temperature(val.predictions), fingerprint=fingerprint)
    if target_precision is not None and not len(val.positions):
        logger.warning(
            "--target-precision: there are no validation images to fit the threshold on, so no answer is withheld"
        )
    elif target_precision is not None:
        is_far = fingerprint.is_far(val.distances)
        rule = fit_unknown(val.predictions.scaled(card.temperature), is_far, target_precision)
        card = replace(card, unknown=rule)
    return card, [each.used_with(card) for each in (val, test)]
