"""Cross-validation of a head on stored features: every image is tested once, by a head that was fitted without it.

Whatever is chosen (penalty, temperature, best epoch) is chosen again in each fold, from the images of the others.

The intervals are those of independent predictions, widened for the folds: see `scoring/Intervals`.
N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from MLPipeline.heads.Folds import make_folds
from MLPipeline.heads.HeadImages import HeadImages
from MLPipeline.scoring.Intervals import over_folds

Answer = Callable[[np.ndarray], np.ndarray]  # features (N, D) -> logits (N, C)
Fit = Callable[[HeadImages], Answer]


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """The predictions for images by heads that were fitted without them."""

    tested: np.ndarray  # (M,) int64: positions of the tested images
    logits: np.ndarray  # (M, C) float32
    short: Mapping[int, int]  # class -> number of folds that test it, where that is less than K


def cross_validate(images: HeadImages, fit: Fit, num_folds: int, seed: int) -> CrossValidated:
    """Return the predictions for all images whose class can be learned from the other folds.

    Args:
        images: the images; those of one group are in the same fold.
        fit: returns a head fitted on images.
        num_folds: K; a class of fewer groups is tested in as many folds as it has groups, one of a single group never.
        seed: draws the folds.
    """
    folds = make_folds(images.labels, images.groups, images.num_classes, num_folds, seed)
    logits = [fit(images.only(fold.others))(images.rows[fold.tested]) for fold in folds.parts]
    order = np.argsort(folds.tested)
    return CrossValidated(folds.tested[order], np.concatenate(logits)[order], folds.short)


def widened(figures: Mapping[str, Any], num_folds: int) -> dict[str, Any]:
    """Return the `figures` of `Metrics.evaluate` with all 95 % intervals as those of `num_folds` folds."""
    wide = dict(figures)
    for name, bounds in figures.items():
        value = figures.get(name.removesuffix("_ci95"))
        if name.endswith("_ci95") and bounds is not None and value is not None:
            low, high = over_folds(value, bounds, num_folds)
            wide[name] = [max(0.0, low), min(1.0, high)]
    if "per_class" in figures:
        wide["per_class"] = {name: widened(each, num_folds) for name, each in figures["per_class"].items()}
    return wide
