"""After fine-tuning: the image size at which the model is tested and used, chosen on the validation images.

Random crops show a network its objects larger than whole images of the same size do. Whole images of a larger size show
them as large as the crops did; the weights stay as they are.

Source: Touvron et al., Fixing the train-test resolution discrepancy, arXiv:1906.06423.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from MLPipeline.Augment import make_augmentation
from MLPipeline.console.Console import progress, say
from MLPipeline.Errors import DataError
from MLPipeline.Evaluate import center_positions, validate
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import TEST, VAL
from MLPipeline.images.SplitImages import only
from MLPipeline.Models import takes_size
from MLPipeline.scoring.Predictions import Predictions, is_lower
from MLPipeline.steps.Job import Job
from MLPipeline.training.Phases import head_epochs

_FACTORS = (1.125, 1.28)  # of the size in training
_LARGEST = 4096  # as for `--test-size`
MAX_MEASURED = 2000  # validation images, evenly chosen of more
_MULTIPLE = 16  # sizes are rounded to it: networks halve their input several times

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SizeResult:
    """What the validation images say of one image size."""

    image_size: int
    val_loss: float
    val_accuracy: float


def choose_size(job: Job, dataset: Dataset) -> Dataset:
    """Return the images as they are tested: at `--test-size`, or at a larger size where that validates better.

    A larger size is kept only where it lowers the validation loss by more than the standard error of the difference.
    `job.test_size` and `job.sizes` say what came of it.
    """
    config = job.config
    if config.test_size:
        return _at_size(job, dataset, config.test_size)
    if not _may_be_larger(job):
        return dataset
    measured = _measured(dataset)
    best = validate(job.model, measured, config.precision)
    results, chosen = [_result(config.image_size, best)], config.image_size
    for size in larger_sizes(config.image_size):
        if not takes_size(config.model, len(job.index.classes), config.image_size, size):
            break
        try:
            larger = _extracted(job, measured, size, measured.index.positions(VAL))
            tried = validate(job.model, larger, config.precision)
        except DataError as error:
            logger.warning("no other image size is tried: %s", error)
            break
        results.append(_result(size, tried))
        if not is_lower(tried.losses, best.losses):
            break
        best, chosen = tried, size
    job.sizes = [asdict(each) for each in results]
    if chosen == config.image_size:
        return dataset
    dataset = _at_size(job, dataset, chosen)
    if job.test_size:
        say(_line(results, chosen))
    return dataset


def larger_sizes(image_size: int) -> list[int]:
    """Return the sizes to try, in pixels: 224 and 256 for 200."""
    sizes = [round(factor * image_size / _MULTIPLE) * _MULTIPLE for factor in _FACTORS]
    return [size for size in sizes if image_size < size <= _LARGEST]


def _may_be_larger(job: Job) -> bool:
    """Return whether the kept weights are those of a fine-tuning on crops, and there are images to choose with."""
    is_tuned = job.config.unfreeze_after is not None and job.card.epoch > head_epochs(job.config)
    return is_tuned and "crop" in make_augmentation(job.config.augment).names and len(job.index.positions(VAL)) > 0


def _measured(dataset: Dataset) -> Dataset:
    """Return the data set with the validation images to score in their split, and all others in none."""
    positions = dataset.index.positions(VAL)
    return replace(dataset, index=only(dataset.index, positions[:: -(-len(positions) // MAX_MEASURED)]))


def _at_size(job: Job, dataset: Dataset, size: int) -> Dataset:
    """Return the images at `size` pixels, where all of them can still be read; else `dataset`."""
    try:
        index = dataset.index
        needed = (center_positions(index), index.positions(VAL), index.positions(TEST))
        dataset = _extracted(job, dataset, size, np.concatenate(needed))
    except DataError as error:
        logger.warning("the image size stays at %d: %s", dataset.image_size, error)
        return dataset
    job.test_size = size
    return dataset


def _extracted(job: Job, dataset: Dataset, size: int, positions: np.ndarray) -> Dataset:
    """Return the data set with rows of `size` pixels, for the images at `positions` alone.

    Raises:
        DataError: a file can no longer be read.
    """
    config = job.config
    found = extract(
        job.model,
        only(dataset.index, positions),
        size,
        config.output / "cache",
        config.precision,
        config.workers,
        progress,
        job.row_keys,
        cache_limit=config.cache_limit,
        preprocessing=job.preprocessing,
    )
    if np.count_nonzero(found.index.splits >= 0) < len(positions):
        lost = found.index.skipped[-1]
        raise DataError(f"{lost.path}: {lost.reason}, but could be read before", "Restore it")
    return replace(dataset, rows=found.rows, image_size=size)


def _result(size: int, predictions: Predictions) -> SizeResult:
    return SizeResult(size, predictions.loss, predictions.accuracy)


def _line(results: Sequence[SizeResult], chosen: int) -> str:
    best, first = next(each for each in results if each.image_size == chosen), results[0]
    return (
        f"size     tested and used at {chosen}x{chosen} pixels, for the lower validation loss: {best.val_loss:.4f} "
        f"(at {first.image_size}x{first.image_size}: {first.val_loss:.4f})"
    )
