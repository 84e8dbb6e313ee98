"""The pictures of the scores of a model: confusion matrix, per-class figures, reliability diagram, ROC and PR curves.

Each is a function from `Scores` to a `Figure`; its entry in `FIGURES` names the file in the folder of a run.
N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from MLPipeline.report.Names import drawable
from MLPipeline.report.Plots import confusion_figure
from MLPipeline.report.PlotStyle import (
    BLUE,
    BLUES,
    GREY,
    INK,
    ORANGE,
    Margins,
    panels,
    percent,
    save_figure,
    styled,
    widest,
)
from MLPipeline.report.Scores import Scores

MAX_BARS = 60  # classes in the per-class figure: the weakest
NUM_WORST = 3  # classes whose own curve is drawn
NUM_BINS = 10
FEW = 10  # a bar of fewer images is drawn pale
_LABEL_SIZE = 9
_GRID = np.linspace(0, 1, 201)
_COLOURS = (ORANGE, "#CC79A7", "#E69F00")  # of the worst classes; all of Okabe and Ito's


def plot_scores(scores: Scores, folder: Path) -> None:
    """Save every figure of `FIGURES` in `folder` as PNG.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    for name, figure_of in FIGURES.items():
        save_figure(figure_of(scores), folder / name)


def counts_figure(scores: Scores) -> Figure:
    """Return the confusion matrix with counts."""
    return confusion_figure(scores.metrics["confusion_matrix"], scores.classes)


def shares_figure(scores: Scores) -> Figure:
    """Return the confusion matrix with percentages of the true classes."""
    return confusion_figure(scores.metrics["confusion_matrix"], scores.classes, is_normalized=True)


@styled
def per_class_figure(scores: Scores) -> Figure:
    """Return recall as bars with 95 % intervals, and precision as dots, the weakest class at the top."""
    per_class = scores.metrics["per_class"]
    known = {name: figures for name, figures in per_class.items() if figures["recall"] is not None}
    names = sorted(known, key=lambda name: known[name]["recall"])[:MAX_BARS]
    labels = [f"{drawable(name, 30)} ({known[name]['support']:,})" for name in names]
    margins = Margins(left=widest(labels, _LABEL_SIZE) + 0.45, top=0.45)
    figure, axes = panels(8, 1.45 + 0.28 * max(len(names), 1), margins=margins)
    recalls = np.array([known[name]["recall"] for name in names])
    bounds = np.array([known[name]["recall_ci95"] for name in names]).reshape(-1, 2)
    rows = range(len(names))
    axes.barh(rows, recalls, height=0.62, color=BLUES(0.5), label="recall, with 95 % interval")
    axes.hlines(rows, bounds[:, 0], bounds[:, 1], color=INK, linewidth=1.2)
    precise = [
        (known[name]["precision"], row) for row, name in enumerate(names) if known[name]["precision"] is not None
    ]
    x, y = zip(*precise, strict=True) if precise else ((), ())
    axes.plot(x, y, "D", color="white", markeredgecolor=ORANGE, markeredgewidth=1.5, markersize=5, label="precision")
    axes.set_yticks(rows, labels, fontsize=_LABEL_SIZE)
    left_out = f"the weakest {MAX_BARS} of {len(known)}" if len(known) > MAX_BARS else "weakest first"
    axes.set(title=f"Recall and precision, {left_out}", xlabel="Share of images", ylabel="Class (number of images)")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.grid(axis="y", visible=False)
    if names:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2)  # beside the title
    return figure


@styled
def reliability_figure(scores: Scores) -> Figure:
    """Return the accuracy in each bin of confidence, and the number of images in each.

    Source: A. Niculescu-Mizil and R. Caruana, Predicting Good Probabilities with Supervised Learning, ICML 2005.
    """
    bins = np.minimum((scores.probabilities.max(axis=1) * NUM_BINS).astype(int), NUM_BINS - 1)
    numbers = np.bincount(bins, minlength=NUM_BINS)
    right = np.bincount(bins, weights=scores.is_right, minlength=NUM_BINS)
    shares = right / np.maximum(numbers, 1)
    edges = np.arange(NUM_BINS) / NUM_BINS
    figure, (top, bottom) = panels(5, 5.6, rows=2, gap=(0, 0.15), height_ratios=(3, 1), sharex=True)
    look: dict[str, Any] = {"width": 0.092, "align": "edge"}
    for kind, alpha, label in (
        (numbers >= FEW, 1.0, "accuracy"),
        ((numbers > 0) & (numbers < FEW), 0.35, f"fewer than {FEW} images"),
    ):
        top.bar(edges[kind] + 0.004, shares[kind], color=BLUE, alpha=alpha, label=label, **look)
    top.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    bottom.bar(edges + 0.004, right, color=BLUE, **look)
    bottom.bar(edges + 0.004, numbers - right, bottom=right, color=ORANGE, label="wrong", **look)
    error = scores.metrics["ece"]
    top.set(title="Reliability diagram", ylabel="Accuracy", xlim=(0, 1), ylim=(0, 1))
    if error is not None:
        text = f"expected calibration error {percent(error)}"
        top.set_title(text, loc="right", color=GREY, fontsize=9, weight="normal")
    bottom.set(xlabel="Confidence", ylabel="Images")
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    top.legend(loc="upper left")
    bottom.legend(loc="upper left")
    return figure


@styled
def ranking_figure(scores: Scores) -> Figure:
    """Return ROC and precision-recall curves of each class against all others: their mean, and the worst classes.

    Source: T. Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27 (2006).
    """
    probabilities, labels = np.nan_to_num(scores.probabilities), scores.labels
    rankings = {
        drawable(name, 22): rank(probabilities[:, label], labels == label)
        for label, name in enumerate(scores.classes)
        if 0 < (labels == label).sum() < len(labels)
    }
    figure, (left, right) = panels(9, 4.5, columns=2, gap=(0.8, 0))
    left.set(title="ROC curve", xlabel="False positive rate", ylabel="True positive rate (recall)")
    right.set(title="Precision-recall curve", xlabel="Recall", ylabel="Precision")
    for axes in (left, right):
        axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if rankings:
        left.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        found = rankings.items()
        _draw_curves(left, {k: each.recall for k, each in found}, {k: each.auroc for k, each in found}, "lower right")
        areas = {k: each.average_precision for k, each in found}
        _draw_curves(right, {k: each.precision for k, each in found}, areas, "lower left")
    return figure


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well a score separates the members of a class from all others; curves at 201 points from 0 to 1."""

    recall: np.ndarray  # by false-positive rate
    precision: np.ndarray  # by recall
    auroc: float
    average_precision: float


def rank(scores: np.ndarray, is_member: np.ndarray) -> Ranking:
    """Return the curves for `scores` `(N,)`, which should be higher for the images where `is_member` `(N,)` is true."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.append(0, np.cumsum(is_member[order])[last_of_ties])
    answers = np.append(0, last_of_ties + 1)
    recall, false_positives = hits / hits[-1], (answers - hits) / (len(scores) - hits[-1])
    precision = hits[1:] / answers[1:]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or higher
    at_recall = np.minimum(np.searchsorted(recall[1:], _GRID - 1e-12), len(best) - 1)
    return Ranking(
        np.interp(_GRID, false_positives, recall),
        best[at_recall],
        float(np.sum(np.diff(false_positives) * (recall[1:] + recall[:-1])) / 2),
        float(np.sum(np.diff(recall) * precision)),
    )


def _draw_curves(axes: Axes, curves: Mapping[str, np.ndarray], areas: Mapping[str, float], place: str) -> None:
    """Draw the mean of all curves, and the curves with the smallest areas."""
    worst = sorted(areas, key=lambda name: areas[name])[:NUM_WORST] if len(curves) > 2 else []
    mean, area = np.mean(list(curves.values()), axis=0), np.mean(list(areas.values()))
    axes.plot(_GRID, mean, color=BLUE, linewidth=2.4, label=f"{area:.3f}  mean of {len(curves)} classes", zorder=4)
    for name, colour in zip(worst, _COLOURS, strict=False):
        axes.plot(_GRID, curves[name], color=colour, linewidth=1.3, label=f"{areas[name]:.3f}  {name}")
    look: dict[str, Any] = {"loc": place, "title": "Area under the curve", "alignment": "left"}
    axes.legend(**look)


FIGURES: Mapping[str, Callable[[Scores], Figure]] = {
    "confusion_matrix.png": counts_figure,
    "confusion_matrix_normalized.png": shares_figure,
    "per_class.png": per_class_figure,
    "reliability.png": reliability_figure,
    "roc_pr.png": ranking_figure,
}
