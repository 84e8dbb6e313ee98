"""How good a model is: every figure of its predictions on labelled images, one row of `METRICS` each.

To add a metric, write one function from `Scored` to a number and one row of `METRICS`: `metrics.json`, the table of
`report.html` and `docs/metrics.md` are generated from it.

All figures are computed in float64 and here, most of them from the confusion matrix. torchmetrics 1.9 counts a class
without images as recall 0, refuses a single class or no images, computes in float32, and takes seconds to import; the
tests compare ours with scikit-learn's.
N images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from MLPipeline.scoring.Intervals import balanced_accuracy_interval, macro_f1_interval, wilson_interval
from MLPipeline.scoring.Predictions import Predictions

NUM_CALIBRATION_BINS = 15


@dataclass(frozen=True, eq=False)
class Scored:
    """What a metric is computed from."""

    predictions: Predictions
    classes: Sequence[str]

    @cached_property
    def confusion(self) -> Tensor:
        """Counts (C, C) int64: rows are the true classes, columns the predicted ones."""
        return confusion_matrix(self.predictions.labels, self.predictions.predicted, len(self.classes))

    @cached_property
    def per_class(self) -> dict[str, dict[str, Any]]:
        """Precision, recall, F1, support and the interval of the recall of each class."""
        return {name: _class_metrics(self.confusion, label) for label, name in enumerate(self.classes)}

    @property
    def num_correct(self) -> int:
        """Number of images classified correctly."""
        return int(self.confusion.diagonal().sum())


Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """One figure: how it is computed, and how it is shown."""

    title: str
    meaning: str  # one phrase for readers
    compute: Callable[[Scored], float | None]  # None where it is not defined
    form: str = "percent"  # percent, or decimals: "2", "3"
    best: str = "high"  # which direction is better: high, low, or none
    interval: Callable[[Scored], Interval | None] | None = None  # of 95 %
    is_class_mean: bool = False  # a mean over the classes that have images: it is stated how many these are


def evaluate(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of `predictions`, ready for JSON: a figure that is undefined is None, never NaN.

    Each row of `METRICS` gives one entry, and `<name>_ci95` where it has an interval. Classes without images are left
    out of every mean; `classes_without_images` names them. `confusion_matrix[t][p]` counts images of class t
    classified as p; `weakest_class` has the lowest recall, and `weakest_class_taken_for` is the class it is most often
    confused with.
    """
    scored = Scored(predictions, classes)
    figures: dict[str, Any] = {"n": len(predictions.labels)}
    for name, metric in METRICS.items():
        figures[name] = metric.compute(scored)
        if metric.interval:
            bounds = metric.interval(scored)
            figures[f"{name}_ci95"] = list(bounds) if bounds else None
    weakest = _weakest_class(scored.confusion)
    confused_with = None if weakest is None else _most_frequent_mistake(scored.confusion, weakest)
    return figures | {
        "classes_without_images": [name for name, each in scored.per_class.items() if not each["support"]],
        "weakest_class": None if weakest is None else classes[weakest],
        "weakest_class_taken_for": None if confused_with is None else classes[confused_with],
        "per_class": scored.per_class,
        "confusion_matrix": scored.confusion.tolist(),
    }


def shown_metrics(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return title, value, interval and meaning, as text, of each metric that `figures` of `evaluate` define."""
    return [
        {
            "title": title_of(name, figures),
            "value": format_value(metric, figures[name]),
            "interval": _format_interval(metric, figures.get(f"{name}_ci95")),
            "meaning": _meaning_of(metric),
        }
        for name, metric in METRICS.items()
        if figures.get(name) is not None
    ]


def title_of(name: str, figures: Mapping[str, Any]) -> str:
    """Return the title of a metric; of a mean over classes also over how many, where some have no images."""
    metric, num_classes = METRICS[name], len(figures["per_class"])
    left_out = len(figures["classes_without_images"])
    is_partial = metric.is_class_mean and left_out
    return f"{metric.title} over {num_classes - left_out} of {num_classes} classes" if is_partial else metric.title


def format_value(metric: Metric, value: float) -> str:
    """Return a value as text: `86.7 %`, or `0.123`."""
    return f"{100 * value:.1f} %" if metric.form == "percent" else f"{value:.{metric.form}f}"


def metrics_document() -> str:
    """Return `docs/metrics.md`: what each entry of `metrics.json` means."""
    lines = ["| in `metrics.json` | name | meaning |", "| --- | --- | --- |"]
    for name, metric in METRICS.items():
        key = f"`{name}`, `{name}_ci95`" if metric.interval else f"`{name}`"
        lines.append(f"| {key} | {metric.title} | {_meaning_of(metric)} |")
    return "\n".join(lines) + "\n"


def _format_interval(metric: Metric, bounds: Sequence[float] | None) -> str:
    if bounds is None:
        return ""
    low, high = (format_value(metric, bound) for bound in bounds)
    return f"{low.removesuffix(' %')} to {high}"


def _meaning_of(metric: Metric) -> str:
    return metric.meaning + {"high": "; higher is better", "low": "; lower is better", "none": ""}[metric.best]


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Return counts `(C, C)` int64: rows are the true classes, columns the predicted ones; both inputs `(N,)` int64."""
    assert not len(labels) or 0 <= int(labels.min()) <= int(labels.max()) < num_classes
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def mean_loss(scored: Scored) -> float | None:
    """Return the mean cross-entropy of the images, in nats."""
    return _mean(scored.predictions.losses.tolist())


def accuracy(scored: Scored) -> float | None:
    """Return the share of images classified correctly."""
    return _ratio(scored.num_correct, len(scored.predictions.labels))


def accuracy_interval(scored: Scored) -> Interval:
    """Return the 95 % interval of the accuracy; (0, 1) without images."""
    return wilson_interval(scored.num_correct, len(scored.predictions.labels))


def top5_accuracy(scored: Scored) -> float | None:
    """Return the share of images whose true class is among the 5 likeliest; None for 5 classes or fewer."""
    logits, labels = scored.predictions.logits, scored.predictions.labels
    if logits.shape[1] <= 5:
        return None
    return _ratio(int((logits.topk(5, dim=1).indices == labels[:, None]).sum()), len(labels))


def balanced_accuracy(scored: Scored) -> float | None:
    """Return the mean recall of the classes that have images."""
    return _mean([figures["recall"] for figures in scored.per_class.values()])


def macro_f1(scored: Scored) -> float | None:
    """Return the mean F1 of the classes that have images.

    scikit-learn's default also averages over classes that have no images but are predicted, whose F1 is 0.
    """
    return _mean([figures["f1"] for figures in scored.per_class.values()])


def macro_auroc(scored: Scored) -> float | None:
    """Return the mean area under the ROC curves of each class against all others, 0.5 (chance) to 1 (best).

    A curve's area is the share of (image of the class, other image) pairs that the class's probability ranks in the
    right order; ties count half. The mean is over the classes with images, if there are others too; None if there is
    no such class, or after divergence.
    """
    probabilities, areas = scored.predictions.probabilities, []
    if not bool(probabilities.isfinite().all()):
        return None
    for label, scores in enumerate(probabilities.T.contiguous()):
        is_member = scored.predictions.labels == label
        members, others = scores[is_member], scores[~is_member].sort().values
        if len(members) and len(others):
            below, not_above = (torch.searchsorted(others, members, right=right) for right in (False, True))
            areas.append(float((below + not_above).sum()) / (2 * len(members) * len(others)))
    return _mean(areas)


def brier_score(scored: Scored) -> float | None:
    """Return the mean squared distance of the probabilities from the one-hot label, 0 (best) to 2.

    Source: G. W. Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78 (1950).
    """
    errors = scored.predictions.probabilities
    errors[torch.arange(len(errors)), scored.predictions.labels] -= 1
    return _ratio(float(errors.square().sum()), len(errors))


def calibration_error(scored: Scored) -> float | None:
    """Return the expected calibration error of the predictions, at their temperature."""
    return expected_calibration_error(scored.predictions)


def calibration_error_unscaled(scored: Scored) -> float | None:
    """Return the calibration error without temperature scaling."""
    return expected_calibration_error(scored.predictions.scaled(1.0))


def temperature(scored: Scored) -> float:
    """Return the temperature that the logits are divided by."""
    return scored.predictions.temperature


# In the order of `metrics.json`, the page and the documentation.
METRICS: dict[str, Metric] = {
    "loss": Metric("Loss", "mean cross-entropy of the images, in nats", mean_loss, "4", "low"),
    "accuracy": Metric("Accuracy", "share of images classified correctly", accuracy, interval=accuracy_interval),
    "top5_accuracy": Metric(
        "Top-5 accuracy", "share of images whose class is among the five most probable", top5_accuracy
    ),
    "balanced_accuracy": Metric(
        "Balanced accuracy",
        "mean recall of the classes that have images",
        balanced_accuracy,
        interval=lambda scored: balanced_accuracy_interval(scored.confusion.numpy()),
        is_class_mean=True,
    ),
    "macro_f1": Metric(
        "Macro F1",
        "mean F1 of the classes that have images",
        macro_f1,
        interval=lambda scored: macro_f1_interval(scored.confusion.numpy()),
        is_class_mean=True,
    ),
    "auroc": Metric(
        "AUROC",
        "how well the probability of a class separates its images from all others, 0.5 is chance",
        macro_auroc,
        "3",
        is_class_mean=True,
    ),
    "brier": Metric(
        "Brier score", "mean squared distance of the probabilities from the label, 0 to 2", brier_score, "3", "low"
    ),
    "ece": Metric(
        "Expected calibration error",
        "mean difference between confidence and accuracy",
        calibration_error,
        best="low",
    ),
    "ece_unscaled": Metric(
        "Calibration error before temperature scaling",
        "expected calibration error of the unscaled logits",
        calibration_error_unscaled,
        best="low",
    ),
    "temperature": Metric(
        "Temperature",
        "divides the logits; above 1, the unscaled model is overconfident, below 1, underconfident",
        temperature,
        "2",
        "none",
    ),
}


def baseline(train_labels: Tensor, labels: Tensor) -> tuple[float, int] | None:
    """Return the accuracy of the majority-class baseline on `labels` (N,) int64, and the class it always predicts.

    That is the class with the most training images, among those that `labels` has: where a split lacks the largest
    class, always predicting it would score 0, which says nothing. None if either is empty, or they share no class.
    """
    counts = torch.bincount(train_labels, minlength=int(labels.max()) + 1 if len(labels) else 0)
    counts[~torch.isin(torch.arange(len(counts)), labels)] = 0
    if not counts.any():
        return None
    largest = int(counts.argmax())
    return int((labels == largest).sum()) / len(labels), largest


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


def _class_metrics(confusion: Tensor, label: int) -> dict[str, Any]:
    """Return precision, recall, F1, support and the recall's interval of one class; None for all without images."""
    hits, support = int(confusion[label, label]), int(confusion[label].sum())
    num_predicted = int(confusion[:, label].sum())
    return {
        "precision": _ratio(hits, num_predicted) if support else None,
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + num_predicted) if support else None,
        "support": support,
        "recall_ci95": list(wilson_interval(hits, support)),
    }


def _weakest_class(confusion: Tensor) -> int | None:
    """Return the class of the lowest recall, and of those the one with the most images; None without images."""
    supports = confusion.sum(dim=1).tolist()
    hits = confusion.diagonal().tolist()
    candidates = [label for label, support in enumerate(supports) if support]
    return min(candidates, key=lambda label: (hits[label] / supports[label], -supports[label]), default=None)


def _most_frequent_mistake(confusion: Tensor, label: int) -> int | None:
    """Return the class that class `label` is most often confused with; None if it never is."""
    mistakes = confusion[label].clone()
    mistakes[label] = 0
    return int(mistakes.argmax()) if mistakes.any() else None


def _ratio(numerator: float, denominator: int) -> float | None:
    return numerator / denominator if denominator and math.isfinite(numerator) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined; None if there is none, or if a model diverged to NaN."""
    defined = [value for value in values if value is not None]
    return _ratio(sum(defined), len(defined))
