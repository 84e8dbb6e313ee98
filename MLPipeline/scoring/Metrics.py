"""How good a model is: its predictions on labelled images, the figures drawn from them, and the table behind them.

All figures are computed in float64, most of them from the confusion matrix, and here, not by torchmetrics 1.9, which
counts a class without images as recall 0, refuses one class or no images, works in float32, and takes seconds to
import; the tests hold them to scikit-learn's.
N images, B images of a batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from MLPipeline.scoring.Intervals import bootstrap_intervals, wilson_interval
from MLPipeline.scoring.Predictions import Predictions

NUM_CALIBRATION_BINS = 15


def evaluate(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of `predictions`, ready for JSON: a figure that is undefined is None, never NaN.

    `balanced_accuracy` is the mean recall of the classes that have images, `macro_f1` the mean F1 of the classes that
    have images or predictions (both as scikit-learn has them); `ece_unscaled` is the calibration error at temperature
    1; `confusion_matrix[t][p]` counts images of class t taken for p; `weakest_class` has the lowest recall, and
    `weakest_class_taken_for` is what it is most often mistaken for.
    """
    confusion = confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    num_images, num_correct = len(predictions.labels), int(confusion.diagonal().sum())
    per_class = {name: _class_metrics(confusion, index) for index, name in enumerate(classes)}
    intervals = bootstrap_intervals(confusion.numpy())
    weakest = _weakest_class(confusion)
    taken_for = None if weakest is None else _most_frequent_mistake(confusion, weakest)
    return {
        "n": num_images,
        "loss": _mean(predictions.losses.tolist()),
        "accuracy": _ratio(num_correct, num_images),
        "accuracy_ci95": list(wilson_interval(num_correct, num_images)),
        "top5_accuracy": top_k_accuracy(predictions, 5),
        "balanced_accuracy": _mean([metrics["recall"] for metrics in per_class.values()]),
        "balanced_accuracy_ci95": intervals["balanced_accuracy"],
        "macro_f1": _mean([metrics["f1"] for metrics in per_class.values()]),
        "macro_f1_ci95": intervals["macro_f1"],
        "auroc": macro_auroc(predictions),
        "brier": brier_score(predictions),
        "ece": expected_calibration_error(predictions),
        "ece_unscaled": expected_calibration_error(predictions.scaled(1.0)),
        "temperature": predictions.temperature,
        "weakest_class": None if weakest is None else classes[weakest],
        "weakest_class_taken_for": None if taken_for is None else classes[taken_for],
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
    }


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return counts `(C, C)` int64: rows are the true classes, columns the predicted ones; both inputs `(N,)` int64."""
    assert not len(labels) or 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def top_k_accuracy(predictions: Predictions, k: int) -> float | None:
    """Return the share of images whose true class is among the `k` likeliest; None where that says nothing (C <= k)."""
    if predictions.logits.shape[1] <= k:
        return None
    likeliest = predictions.logits.topk(k, dim=1).indices
    return _ratio(int((likeliest == predictions.labels[:, None]).sum()), len(predictions.labels))


def macro_auroc(predictions: Predictions) -> float | None:
    """Return the mean area under the ROC curves of each class against all others, 0.5 (chance) to 1 (best).

    A curve's area is the share of (image of the class, other image) pairs that the class's probability ranks rightly,
    ties counting half. Over the classes that have images of both kinds; None if no class has, or after divergence.
    """
    probabilities, areas = predictions.probabilities, []
    if not bool(probabilities.isfinite().all()):
        return None
    for label, scores in enumerate(probabilities.T.contiguous()):
        is_member = predictions.labels == label
        members, others = scores[is_member], scores[~is_member].sort().values
        if len(members) and len(others):
            below, not_above = (torch.searchsorted(others, members, right=right) for right in (False, True))
            areas.append(float((below + not_above).sum()) / (2 * len(members) * len(others)))
    return _mean(areas)


def brier_score(predictions: Predictions) -> float | None:
    """Return the mean squared distance of the probabilities from the truth (a one and zeros), 0 (best) to 2.

    Source: G. W. Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78 (1950).
    """
    errors = predictions.probabilities
    errors[torch.arange(len(errors)), predictions.labels] -= 1
    return _ratio(float(errors.square().sum()), len(errors))


def expected_calibration_error(predictions: Predictions) -> float | None:
    """Return the mean gap between confidence and accuracy over 15 equal-width bins of confidence, 0 (best) to 1.

    None without images. Source: C. Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    confidence = predictions.confidence
    correct = (predictions.predicted == predictions.labels).double()
    inner_edges = torch.linspace(0, 1, NUM_CALIBRATION_BINS + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(confidence, inner_edges)
    # |accuracy - confidence| of a bin times its share of the images: their counts cancel.
    gaps = torch.bincount(bins, weights=correct - confidence).abs()
    return _ratio(float(gaps.sum()), len(confidence))


def baseline_accuracy(train_labels: Tensor, test_labels: Tensor) -> float | None:
    """Return the accuracy on `test_labels` of always answering the largest class of `train_labels` (both `(N,)` int64).

    None if either is empty.
    """
    if not len(train_labels):
        return None
    largest = torch.bincount(train_labels).argmax()
    return _ratio(int((test_labels == largest).sum()), len(test_labels))


def _class_metrics(confusion: Tensor, index: int) -> dict[str, Any]:
    """Return precision, recall, F1, support and the recall's interval of one class."""
    hits, support = int(confusion[index, index]), int(confusion[index].sum())
    num_predicted = int(confusion[:, index].sum())
    return {
        "precision": _ratio(hits, num_predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + num_predicted),
        "support": support,
        "recall_ci95": list(wilson_interval(hits, support)),
    }


def _weakest_class(confusion: Tensor) -> int | None:
    """Return the class of the lowest recall, and of those the one with the most images; None without images."""
    supports = confusion.sum(dim=1).tolist()
    hits = confusion.diagonal().tolist()
    candidates = [index for index, support in enumerate(supports) if support]
    return min(candidates, key=lambda index: (hits[index] / supports[index], -supports[index]), default=None)


def _most_frequent_mistake(confusion: Tensor, index: int) -> int | None:
    """Return the wrong class that class `index` is most often taken for; None if it never is."""
    mistakes = confusion[index].clone()
    mistakes[index] = 0
    return int(mistakes.argmax()) if mistakes.any() else None


def _ratio(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator and math.isfinite(numerator) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined, None if there is none or a model diverged to NaN."""
    defined = [value for value in values if value is not None]
    return _ratio(sum(defined), len(defined))
