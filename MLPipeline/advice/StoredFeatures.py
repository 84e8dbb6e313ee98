"""What the stored features of a run say about more images and about wrong labels, without using any test image.

Both come from heads in closed form, fitted out of fold on the training and validation images: a few seconds for
thousands of images. The features are projected onto at most 512 principal axes first, which uses no label.

The gain by more images is estimated one step at a time: for up to 200 more images, and never for more than half as many
as there are. R. Mahmood et al., How Much More Data Do I Need?, arXiv:2207.01725, find that a power law fitted to few
images overestimates what is far away, and that collecting in several steps, with a new estimate after each, avoids
collecting several times too many. On random subsets of 600, 1,000 and 2,000 photographs of clothing (15 of each size),
the estimates for 200 more were +1.2, +0.7 and +0.3 points on average, where training on them gave +1.2, +0.6 and +0.3;
the intervals held these averages in all 45 cases. As the repeats share images, the intervals are widened by the factor
of Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52 (2003); without it, 38 held them.
N images, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.audit.LabelSuspects import BELIEF, DOUBT, MIN_IMAGES, out_of_fold
from MLPipeline.audit.LearningCurve import NUM_FOLDS, grown_error, measure_repeats, widened_interval
from MLPipeline.heads.StoredAxes import stored_axes

MAX_IMAGES = 4000  # of which the estimates are made: evenly chosen of more
STEP, LARGEST_SHARE = 200, 0.5
MAX_CLASSES_NAMED = 2
_ROUND = 10  # a step of more images than this is a multiple of it


@dataclass(frozen=True, eq=False)
class MoreImages:
    """The accuracy by the number of training images, and the estimated gain by the next ones."""

    num_images: np.ndarray  # (S,) ascending
    accuracy: np.ndarray  # (S,) out of fold
    interval: np.ndarray  # (2, S) 95 %
    step: int  # the number of images of the next step
    gain: float  # of the accuracy, by the next `step` images
    gain_ci95: tuple[float, float]
    class_gains: dict[int, float]  # of the recall of the classes that gain most, where the gain is significant

    def to_plain(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return the entry `learning_curve` of `metrics.json`."""
        return {
            "num_images": self.num_images.tolist(),
            "accuracy": self.accuracy.tolist(),
            "accuracy_ci95": self.interval.T.tolist(),
            "next_images": self.step,
            "gain": self.gain,
            "gain_ci95": list(self.gain_ci95),
            "class_gains": {classes[label]: gain for label, gain in self.class_gains.items()},
        }


def reduced(features: np.ndarray, cache: Path | None = None) -> np.ndarray:
    """Return the coordinates (N, 512 or fewer) float32 of `features` (N, D) along their principal axes.

    Raises:
        ResourceError: the `cache`, which keeps the axes, cannot be written.
    """
    return stored_axes(features, cache).project(features)


def more_images(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> MoreImages | None:
    """Return the estimated gain by more images; None where a class has fewer than 10 images, or 5 groups of copies.

    Args:
        features: (N, D) float32.
        labels: (N,) int64; some classes may have no images.
        groups: (N,) int64, the same for copies of one image.
        seed: draws folds, subsets and repeats.
    """
    found = measure_repeats(features, labels, groups, seed)
    if found is None or len(found.shares) < 3:  # a power law has three parameters
        return None
    step = _step(len(labels))
    errors = 1 - found.drawn(seed)  # (draws, S, 1 + C)
    by_curve = np.moveaxis(errors, 1, 2)  # (draws, 1 + C, S)
    gains = by_curve[..., -1] - grown_error(found.shares, by_curve, 1 + step / len(labels))
    low, middle, high = np.quantile(gains, [0.025, 0.5, 0.975], axis=0)
    # The repeats share most of their images, so their spread alone says too little (Nadeau and Bengio, 2003).
    scale = (1 + len(found.hits) / (NUM_FOLDS - 1)) ** 0.5
    low, high = middle - scale * (middle - low), middle + scale * (high - middle)
    order = [label for label in np.argsort(-middle[1:], kind="stable").tolist() if low[1 + label] > 0]
    accuracy = found.accuracy[:, 0]
    bounds = np.quantile(1 - errors[:, :, 0], [0.025, 0.975], axis=0)
    return MoreImages(
        found.fitted_on,
        accuracy,
        widened_interval(bounds, accuracy, len(labels)),
        step,
        float(middle[0]),
        (float(low[0]), float(high[0])),
        {int(found.classes[label]): float(middle[1 + label]) for label in order[:MAX_CLASSES_NAMED]},
    )


def _step(num_images: int) -> int:
    most = min(STEP, int(LARGEST_SHARE * num_images))
    return most - most % _ROUND if most > _ROUND else most


def count_suspects(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> int:
    """Return how many labels are probably wrong, by the limits of the audit; see `more_images` for the arguments.

    The audit lists at most as many, since it also limits their number by cleanlab's estimate. Classes with fewer than
    10 images, or 5 groups of copies, are not counted.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    num_groups = np.bincount(codes[np.unique(groups, return_index=True)[1]], minlength=len(classes))
    is_learnable = ((np.bincount(codes) >= MIN_IMAGES) & (num_groups >= NUM_FOLDS))[codes]
    if len(classes) < 2 or not is_learnable.any():
        return 0
    probabilities = out_of_fold(features, codes, groups, seed)
    of_labels = probabilities[np.arange(len(codes)), codes]
    return int((is_learnable & (of_labels < DOUBT) & (probabilities.max(axis=1) > BELIEF)).sum())
