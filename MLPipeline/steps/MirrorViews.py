"""Predictions averaged over each image and its mirror image: measured at the end of a run, used by `evaluate --tta`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.console.Console import progress
from MLPipeline.CreateDataset import Rows
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.Evaluate import Scorer, SplitPredictions
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import VAL, ImageIndex
from MLPipeline.images.SplitImages import only
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.MirrorAverage import MirrorAverage, MirrorEffect, averaged, mirror_effect
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.scoring.Unknown import fit_unknown
from MLPipeline.steps.CheckMirrors import mirrored_exchange
from MLPipeline.steps.Job import Job

MAX_MEASURED = 500  # validation images, evenly chosen of more

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MirroredPixels:
    """The rows of a data set whose rows are pixels, mirrored left to right."""

    rows: Rows
    are_pixels: bool = True

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.rows.row_bytes

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return images (B, 3, H, W) uint8."""
        return self.rows.take(positions, epoch).flip(3)


@dataclass(frozen=True)
class Mirror:
    """What computes the predictions for the mirror images of some images of `dataset`."""

    model: Classifier
    card: ModelCard
    config: Config
    dataset: Dataset
    keys: np.ndarray  # (N,) V16: where the rows of each file are stored

    def predict(self, split: int, positions: np.ndarray) -> SplitPredictions:
        """Return the predictions for the mirror images at `positions` of a split, without those that became unreadable.

        Rows that are pixels are mirrored as they are read; features are computed from the files, and kept in the cache.

        Raises:
            DataError: none of the files can be read any more.
        """
        index = only(self.dataset.index, positions, split)
        if self.dataset.rows.are_pixels:
            pixels: Any = MirroredPixels(self.dataset.rows)
            mirrored = replace(self.dataset, index=index, rows=pixels)
        else:
            mirrored = self._features(index)
        return Scorer(self.model, mirrored, self.config.precision).predict(split)

    def _features(self, index: ImageIndex) -> Dataset:
        config, how = self.config, replace(self.card.preprocessing, is_mirrored=True)
        keys = self.keys.copy()
        for position in np.flatnonzero(index.splits >= 0).tolist():
            keys[position] = how.of_view(keys[position].tobytes())
        cache, size = config.output / "cache", self.card.image_size
        return extract(
            self.model,
            index,
            size,
            cache,
            config.precision,
            config.workers,
            progress,
            keys,
            cache_limit=config.cache_limit,
            preprocessing=how,
        )


def with_mirror(mirror: Mirror, scored: SplitPredictions) -> SplitPredictions:
    """Return the predictions averaged with those for the mirror images.

    Raises:
        DataError: an image cannot be read any more.
    """
    found = mirror.predict(scored.split, scored.positions)
    if len(found.positions) < len(scored.positions):
        raise DataError("--tta: some images could be read before, and cannot any more", "Restore them, or leave it out")
    logits = averaged(scored.predictions.logits, found.predictions.logits)
    return replace(scored, predictions=replace(scored.predictions, logits=logits))


def measure_mirror(
    job: Job, dataset: Dataset, card: ModelCard, val: SplitPredictions
) -> tuple[ModelCard, dict[str, Any] | None]:
    """Return the card with what `--tta` needs, fitted on the validation images, and the entry `tta` of metrics.json.

    Without validation images there is neither.
    """
    if not len(val.positions):
        return card, None
    chosen = np.arange(len(val.positions))[:: -(-len(val.positions) // MAX_MEASURED)]
    try:
        mirrored = Mirror(job.model, card, job.config, dataset, job.row_keys).predict(VAL, val.positions[chosen])
    except DataError as error:
        logger.warning("--tta is not measured: %s", error)
        return card, None
    chosen = chosen[np.isin(val.positions[chosen], mirrored.positions)]
    logits, labels = val.predictions.logits[chosen], val.predictions.labels[chosen]
    both = Predictions(averaged(logits, mirrored.predictions.logits), labels)
    both = both.scaled(fit_temperature(both))
    effect = mirror_effect(Predictions(logits, labels, card.temperature), both)
    rule = MirrorAverage(both.temperature, _threshold(card, val, chosen, both), _refusal(job, effect))
    return replace(card, tta=rule), effect.to_plain() | {"temperature": both.temperature, "refusal": rule.refusal}


def _threshold(card: ModelCard, val: SplitPredictions, chosen: np.ndarray, both: Predictions) -> float | None:
    """Return the confidence at which averaged answers reach the target precision; None if there is none."""
    if card.unknown is None or card.fingerprint is None:
        return None
    is_far = card.fingerprint.is_far(val.distances[chosen])
    return fit_unknown(both, is_far, card.unknown.target_precision).min_confidence


def _refusal(job: Job, effect: MirrorEffect) -> str:
    """Return why mirror images must not be used; empty if they may be."""
    exchange = job.exchange
    if exchange is None:
        exchange = ranks.from_first(
            mirrored_exchange(job.index, job.inspection, job.config.output / "cache") if ranks.is_first else ""
        )
    if exchange:
        return exchange
    if effect.is_worse:
        return f"the accuracy falls significantly: {effect.to_text()}"
    return ""


def mirror_line(found: dict[str, Any]) -> str:
    """Return the line for the console about the entry `tta` of metrics.json."""
    effect = MirrorEffect(**{name: found[name] for name in MirrorEffect.__dataclass_fields__})
    if found["refusal"]:
        return f"tta      --tta must not be used: {found['refusal']}"
    what = "is better, at twice the time" if effect.is_better else "is not significantly better"
    return f"tta      --tta {what}: {effect.to_text()}"
