"""The classifier that proposes labels: fitted on the stored features of all pictures, labelled or not, in closed form.

Linear discriminant analysis needs a covariance, which few labelled pictures estimate badly, but all pictures well. So
the head is fitted on the labelled pictures, predicts the others, and is fitted again on all of them with their labels
or predictions (EM with hard assignments). The outer products of all features do not depend on the labels: they are
summed up once, and a fit then needs little more than three Cholesky decompositions (D, D).

With 2,400 photographs of clothing in 10 classes, this raises the accuracy with 60, 120, 240 and 420 random labels from
57.8, 68.0, 74.1 and 77.0 % to 61.4, 71.3, 76.7 and 79.0 %.

N pictures, C classes, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.LinearHead import LinearHead, Sums, head_of_few, sum_up
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions

UNLABELLED = -1
_NUM_FITS = 3
_NUM_FOLDS = 2
_MIN_FOR_TEMPERATURE = 20  # labels
_FIRST_TEMPERATURE = 20.0  # with fewer labels than that


@dataclass(frozen=True)
class FittedHead:
    """A head, and the temperature that calibrates its probabilities."""

    head: LinearHead
    temperature: float = 1.0

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return (N, C) for features (N, D); 0 for a class without labels."""
        logits = self.head.logits(features) / self.temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


class Learner:
    """Fits heads on `features` (N, D) float32, a row for each picture, to which pictures may be added at any time."""

    def __init__(self) -> None:
        self._products: np.ndarray | None = None  # (D, D)
        self._num_added = 0

    def take(self, features: np.ndarray) -> None:
        """Take over features (N, D): those of the last call, followed by new ones."""
        new = features[self._num_added :]
        products = new.T @ new
        self._products = products if self._products is None else self._products + products
        self._num_added = len(features)
        self._features = features

    def fit(self, labels: np.ndarray, num_classes: int) -> LinearHead:
        """Return the head fitted on all pictures.

        Args:
            labels: (N,) the class of each picture, or UNLABELLED; two classes or more must occur.
            num_classes: C.
        """
        assert self._products is not None, "no pictures yet"
        is_labelled = labels != UNLABELLED
        head, others = self.fit_labelled(labels, num_classes), self._features[~is_labelled]
        given = _class_sums(self._features[is_labelled], labels[is_labelled], num_classes)
        for _ in range(_NUM_FITS if len(others) else 0):
            predicted = _class_sums(others, head.logits(others).argmax(axis=1), num_classes)
            counts, sums = (one + other for one, other in zip(given, predicted, strict=True))
            head = Sums(counts, sums, self._products).head()
        return head

    def fit_labelled(self, labels: np.ndarray, num_classes: int) -> LinearHead:
        """Return the head fitted on the labelled pictures alone."""
        known = np.flatnonzero(labels != UNLABELLED)
        if len(known) < self._features.shape[1]:
            return head_of_few(self._features, labels, num_classes, known)
        return sum_up(self._features, labels, num_classes, known).head()

    def temperature(self, labels: np.ndarray, num_classes: int) -> float:
        """Return the temperature that calibrates the head which `fit` returns for the same arguments.

        It is the best one for the predictions of each half of the labelled pictures by a head that was fitted on the
        labels of the other half. As these know less, and as pictures are chosen for being uncertain, it is rather too
        high than too low.
        """
        known = np.flatnonzero(labels != UNLABELLED)
        if len(known) < _MIN_FOR_TEMPERATURE:
            return _FIRST_TEMPERATURE
        halves = assign_folds(labels[known], np.arange(len(known)), _NUM_FOLDS, seed=0)
        logits = np.empty((len(known), num_classes))
        for half in range(_NUM_FOLDS):
            others = labels.copy()
            others[known[halves == half]] = UNLABELLED
            if len(np.unique(others[others != UNLABELLED])) < 2:
                return _FIRST_TEMPERATURE
            logits[halves == half] = self.fit(others, num_classes).logits(self._features[known[halves == half]])
        return fit_temperature(Predictions(torch.from_numpy(logits), torch.from_numpy(labels[known])))


def _class_sums(features: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of pictures of each class (C,), and the sums of their features (C, D)."""
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    return one_hot.sum(0), one_hot.T @ features
