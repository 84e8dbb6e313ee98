"""One round of learning: from features and labels to proposals, the pictures to label next, and the accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from MLPipeline.labelling.Choice import next_pictures, typical_pictures
from MLPipeline.labelling.Learner import UNLABELLED, FittedHead, Learner
from MLPipeline.labelling.Outlook import MIN_LABELS, SHARES, Accuracy, labels_for_next_point

NUM_TYPICAL = 40  # pictures chosen in the first round, before uncertain ones are
NUM_CHOSEN = 24  # pictures chosen in a later round


@dataclass(frozen=True)
class Known:
    """What is known of N pictures when a round begins.

    The random sample is held apart: its pictures are in `sample`, all others in `features` and `labels`.
    """

    features: np.ndarray  # (N, D) float32: those of the round before, followed by new ones
    labels: np.ndarray  # (N,) class or UNLABELLED
    order: np.ndarray  # (N,) how many labels were given before that of each picture
    sample: np.ndarray  # (S, D) features of the labelled pictures of the random sample
    sample_labels: np.ndarray  # (S,)
    is_open: np.ndarray  # (N,) whether a picture may be chosen
    num_classes: int
    wants_choice: bool = True  # whether pictures are to be chosen

    @property
    def num_labels(self) -> int:
        """The number of labels that heads are fitted on."""
        return int((self.labels != UNLABELLED).sum())

    @property
    def can_learn(self) -> bool:
        """Whether there are labels of two classes."""
        return len(np.unique(self.labels[self.labels != UNLABELLED])) > 1


@dataclass(frozen=True)
class Findings:
    """The result of a round; `chosen` are rows of `Known.features`, the most instructive first."""

    chosen: np.ndarray
    head: FittedHead | None = None  # None: there are no labels of two classes yet
    accuracy: Accuracy = Accuracy(0, 0)
    num_more: int | None = None  # labels for the next percentage point; None if that cannot be told


def study(learner: Learner, known: Known, seed: int = 0) -> Findings:
    """Return what can be learned from `known`; `learner` keeps the sums over the pictures from round to round.

    Raises:
        ResourceError: scikit-learn is not installed.
    """
    learner.take(known.features)
    if not known.can_learn:
        return Findings(choose(learner, known, seed))
    given = known.labels, known.num_classes
    head = FittedHead(learner.fit(*given), learner.temperature(*given))
    accuracy = Accuracy(num_correct(head, known), len(known.sample))
    return Findings(choose(learner, known, seed), head, accuracy, _num_more(learner, known, accuracy))


def choose(learner: Learner, known: Known, seed: int) -> np.ndarray:
    """Return the rows of the pictures to label next: by a head that knows nothing but labels, which saves most."""
    candidates = np.flatnonzero(known.is_open & (known.labels == UNLABELLED))
    if not known.wants_choice or not len(candidates):
        return candidates[:0]
    features = known.features[candidates]
    if not known.can_learn or known.num_labels < NUM_TYPICAL // 2:
        return candidates[typical_pictures(features, NUM_TYPICAL, seed)]
    head = FittedHead(learner.fit_labelled(known.labels, known.num_classes))
    return candidates[next_pictures(features, head.probabilities(features), NUM_CHOSEN, seed)]


def num_correct(head: FittedHead, known: Known) -> int:
    """Return how many pictures of the random sample are classified correctly."""
    return int((head.head.logits(known.sample).argmax(axis=1) == known.sample_labels).sum())


def _num_more(learner: Learner, known: Known, accuracy: Accuracy) -> int | None:
    if known.num_labels < MIN_LABELS or not accuracy.num_tested:
        return None
    errors = []
    for share in SHARES[:-1].tolist():
        first = np.sort(known.order[known.labels != UNLABELLED])[: round(share * known.num_labels)]
        labels = np.where(np.isin(known.order, first), known.labels, UNLABELLED)
        if len(np.unique(labels[labels != UNLABELLED])) < 2:
            return None
        fitted = FittedHead(learner.fit(labels, known.num_classes))
        errors.append(1 - num_correct(fitted, known) / accuracy.num_tested)
    errors.append(1 - accuracy.share)
    return labels_for_next_point(np.array(errors), known.num_labels, accuracy.num_tested)
