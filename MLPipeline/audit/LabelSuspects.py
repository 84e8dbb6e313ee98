"""Which labels are probably wrong: images that a classifier assigns to another class without being trained on them.

The probabilities of each image come from a head fitted on the other folds (out of fold), so no label supports itself;
cleanlab ranks the labels by them (Confident Learning, arXiv:1911.00068).
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from MLPipeline.audit.Judgement import Suspects
from MLPipeline.Errors import ResourceError, is_out_of_memory
from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.LinearHead import sum_up
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions

NUM_FOLDS = 5
# The label of a suspect has a probability below the first limit, and another class one above the second. Of 60 wrong
# labels planted among 3,781, this finds 51 to 54, and 52 others; without the limits, cleanlab finds 55, and 120 others.
DOUBT, BELIEF = 0.05, 0.4
MIN_IMAGES = 10  # of a class: with fewer, the classifier hardly learns the class, and all of its labels look wrong
_IMAGES_FOR_TEMPERATURE = 20_000


def find_suspects(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> Suspects:
    """Return the images of `features` (N, D) whose `labels` (N,) look wrong, at most as many as cleanlab estimates.

    Args:
        features: one row per image; may be memory-mapped.
        labels: an integer per image.
        groups: an integer per image, the same for copies of one image, which are in the same fold.
        seed: draws the folds.

    Raises:
        ResourceError: cleanlab is not installed.
    """
    count, rank = _cleanlab()
    classes, codes = np.unique(labels, return_inverse=True)
    probabilities = out_of_fold(features, codes, groups, seed)
    predicted = probabilities.argmax(axis=1)
    quality = rank.get_label_quality_scores(codes, probabilities, method="self_confidence")
    num_groups = np.bincount(codes[np.unique(groups, return_index=True)[1]], minlength=len(classes))
    is_learnable = ((np.bincount(codes) >= MIN_IMAGES) & (num_groups >= NUM_FOLDS))[codes]  # from the other folds
    doubtful = np.flatnonzero(is_learnable & (quality < DOUBT) & (probabilities.max(axis=1) > BELIEF))
    number = count.num_label_issues(codes, probabilities) if len(doubtful) else 0
    worst = doubtful[np.argsort(quality[doubtful], kind="stable")][:number]
    confidence = probabilities[worst, predicted[worst]]
    return Suspects(worst, classes[predicted[worst]], confidence, float((predicted == codes).mean()))


def out_of_fold(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return calibrated probabilities (N, C), each row from a head fitted on neither the image nor its copies."""
    num_classes = int(labels.max()) + 1
    folds = assign_folds(labels, groups, NUM_FOLDS, seed)
    members = [np.flatnonzero(folds == fold) for fold in range(NUM_FOLDS)]
    parts = [sum_up(features, labels, num_classes, each) for each in members]
    total = sum(parts[1:], start=parts[0])
    logits = np.empty((len(labels), num_classes))
    for part, held_out in zip(parts, members, strict=True):
        logits[held_out] = (total - part).head().logits(np.asarray(features[held_out], np.float32))
    chosen = np.random.default_rng(seed).permutation(len(labels))[:_IMAGES_FOR_TEMPERATURE]
    found = Predictions(torch.from_numpy(logits), torch.from_numpy(labels))
    sample = Predictions(found.logits[chosen], found.labels[chosen])
    return found.scaled(fit_temperature(sample)).probabilities.numpy()


def _cleanlab() -> tuple:
    try:
        from cleanlab import count, rank
    except ImportError as error:
        if is_out_of_memory(error):
            raise
        raise ResourceError("label suspects need cleanlab", "pip install 'cleanlab>=2.7'") from error
    logging.getLogger("cleanlab").setLevel(logging.ERROR)
    return count, rank
