"""The pictures of a run: its history, its confusion matrix, samples of its inputs, and its mistakes.

Each has a function that returns a `Figure`, for tests, and a `plot_` function that saves it. Figures are made with
matplotlib's classes instead of `pyplot`: no window is opened, and no figure stays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from MLPipeline.report.Names import drawable
from MLPipeline.report.PlotStyle import (
    BLUE,
    BLUES,
    GREY,
    INK,
    ORANGE,
    ORANGES,
    PALE,
    POINTS,
    Margins,
    panels,
    percent,
    save_figure,
    styled,
    widest,
)

Names = Sequence[str]

MIN_CELL = 0.16  # inches: the smallest cell of a confusion matrix with a readable label
MAX_CLASSES_WITH_COUNTS = 60  # with more, a cell is too small for its number
_TITLE_SIZE = 11  # points
_SCALES = 1.9  # inches: both colour bars


def plot_history(history: Mapping[str, npt.ArrayLike], path: Path) -> None:
    """Save `history_figure` as PNG."""
    save_figure(history_figure(history), path)


def plot_samples(images: npt.ArrayLike, titles: Names, path: Path) -> None:
    """Save `samples_figure` as PNG."""
    save_figure(samples_figure(images, titles), path)


def plot_mistakes(
    images: npt.ArrayLike, true: Names, predicted: Names, confidence: Sequence[float], num_images: int, path: Path
) -> None:
    """Save `mistakes_figure` as PNG."""
    save_figure(mistakes_figure(images, true, predicted, confidence, num_images), path)


@styled
def history_figure(history: Mapping[str, npt.ArrayLike]) -> Figure:
    """Return loss and accuracy over the epochs, the epoch of the lowest validation loss marked.

    Args:
        history: the columns `epoch, train_loss, train_accuracy, val_loss, val_accuracy`, a value per epoch; those of
            the validation are NaN where there is no validation set.
    """
    figure, both = panels(9, 3.6, columns=2, margins=Margins(left=0.55), gap=(0.65, 0))
    columns = {name: np.asarray(values, float) for name, values in history.items()}
    val_loss = columns["val_loss"]
    best = int(np.nanargmin(val_loss)) if np.isfinite(val_loss).any() else None
    # A single epoch needs a marker to be seen; hundreds of markers hide the line.
    look = {"marker": "o", "markersize": 3.5, "linewidth": 1.8} if len(val_loss) <= 30 else {"linewidth": 1.2}
    for axes, name, as_text in zip(both, ("loss", "accuracy"), ("{:.4f}".format, percent), strict=True):
        for split, label, color in (("train", "training", ORANGE), ("val", "validation", BLUE)):
            values = np.ma.masked_invalid(columns[f"{split}_{name}"])
            if values.count():
                axes.plot(columns["epoch"], values, color=color, label=label, **look)
        axes.set(title=name.capitalize(), xlabel="Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if best is not None:
            value = float(columns[f"val_{name}"][best])
            _mark_best(axes, int(columns["epoch"][best]), value, f"validation {as_text(value)}")
        if axes.lines:
            axes.legend(loc="upper right" if name == "loss" else "lower right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_ylim(top=min(1.0, axes.get_ylim()[1]))
    return figure


def _mark_best(axes: Axes, epoch: int, value: float, text: str) -> None:
    """Mark the best epoch by a line and a ring, and write `text` beside the title, where it hides no curve."""
    axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot([epoch], [value], "o", color="white", markeredgecolor=BLUE, markeredgewidth=1.8, markersize=7, zorder=4)
    axes.set_title(f"best epoch {epoch}: {text}", loc="right", color=GREY, fontsize=9, weight="normal")


@styled
def confusion_figure(matrix: Sequence[Sequence[int]], classes: Names, is_normalized: bool = False) -> Figure:
    """Return the confusion matrix: counts in the cells, the share of the true class as colour, recall on the right.

    Args:
        matrix: counts `(C, C)`, rows true, columns predicted.
        classes: the C class names, in the order of the rows.
        is_normalized: the cells contain the share of the true class in percent instead.
    """
    counts = np.asarray(matrix, dtype=np.int64).reshape(len(classes), len(classes))
    supports = counts.sum(axis=1)
    shares = counts / np.maximum(supports, 1)[:, None]
    cell = min(max(6 / len(classes), MIN_CELL), 0.7, 24 / len(classes))
    step = math.ceil(MIN_CELL / cell)  # with more than 150 classes only some can be labelled
    title = "Confusion matrix, % of the true class" if is_normalized else "Confusion matrix"
    rows = range(0, len(classes), step)
    names = [drawable(classes[row], 24) for row in rows]
    recalls = [_recall(float(shares[row, row]), int(supports[row])) for row in rows]
    has_counts = len(classes) <= MAX_CLASSES_WITH_COUNTS
    figure, axes = _matrix_axes(len(classes), cell, rows, names, recalls, title, 0.0 if has_counts else _SCALES)
    # The square root makes small shares visible: also one mistake in twenty images.
    on_diagonal = np.eye(len(classes), dtype=bool)[..., None]
    axes.imshow(np.where(on_diagonal, BLUES(shares), ORANGES(np.sqrt(shares))))
    if step == 1:
        _part_cells(axes, len(classes))
    if has_counts:
        _write_cells(axes, counts, shares, cell, is_normalized)
    else:
        _add_scale(figure, Normalize(0, 1), BLUES, "Share of the true class, correct", 1.75)
        _add_scale(figure, PowerNorm(0.5, 0, 1), ORANGES, "Share of the true class, wrong", 0.85)
    return figure


def _recall(share: float, support: int) -> str:
    """Return `83 % of 30`; with 100 images or more, recall has a decimal."""
    return f"{percent(share, 0 if support < 100 else 1)} of {support:,}" if support else "–"


def _matrix_axes(
    num_classes: int, cell: float, rows: range, names: Names, recalls: Names, title: str, scales: float
) -> tuple[Figure, Axes]:
    """Return a figure with axes in units of cells, and the texts around them: title, names, recalls on the right.

    All are texts at known places: with Matplotlib's ticks and labels, a picture takes twice as long.

    Args:
        num_classes: rows and columns of the matrix.
        cell: the side of a cell in inches.
        rows: those that are named.
        names: of these rows.
        recalls: of these rows.
        title: of the figure.
        scales: the width of the colour bars on the right, in inches.
    """
    size, side, gap = min(9.0, 50 * cell * rows.step), cell * num_classes, 0.08
    longest, recall = widest(names, size), widest(recalls, size)
    is_upright = longest < cell * rows.step - gap
    below = size / POINTS if is_upright else longest
    right = max(gap + recall + 0.35 + scales, widest([title], _TITLE_SIZE) * 1.15 - side)  # it is bold
    left, bottom, top = longest + gap + 0.45, below + gap + 0.4, 0.4
    width, height = left + side + right, bottom + side + top
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.set_axis_off()
    start, end, centre = -0.5, num_classes - 0.5, num_classes / 2 - 0.5
    axes.text(start, start - gap / cell, title, va="bottom", fontsize=_TITLE_SIZE, weight="bold")
    for row, name, text in zip(rows, names, recalls, strict=True):
        axes.text(start - gap / cell, row, name, ha="right", va="center", fontsize=size)
        axes.text(row, end + gap / cell, name, ha="center", va="top", rotation=0 if is_upright else 90, fontsize=size)
        axes.text(end + gap / cell, row, text, va="center", fontsize=size, color=BLUE)
    look: Any = {"ha": "center", "va": "center"}
    axes.text(centre, end + (bottom - 0.2) / cell, "Predicted class", **look)
    axes.text(start - (left - 0.2) / cell, centre, "True class", rotation=90, **look)
    axes.text(end + (gap + recall + 0.2) / cell, centre, "Recall", rotation=90, color=BLUE, **look)
    return figure, axes


def _part_cells(axes: Axes, num_classes: int) -> None:
    """Draw thin lines between rows and columns."""
    edges = np.arange(num_classes + 1) - 0.5
    look: Any = {"colors": PALE, "linewidths": matplotlib.rcParams["grid.linewidth"], "zorder": 1}
    axes.hlines(edges, edges[0], edges[-1], **look)
    axes.vlines(edges, edges[0], edges[-1], **look)


def _write_cells(
    axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], cell: float, is_normalized: bool
) -> None:
    """Write the count, or the share in percent, into every cell that has one."""
    texts = (100 * shares).round().astype(int).astype(str) if is_normalized else counts.astype(str)
    font_size = min(10.0, POINTS * cell * 0.45, POINTS * cell * 1.3 / max(map(len, texts.flat)))
    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > 0.8 else INK
        axes.text(column, row, texts[row, column], ha="center", va="center", fontsize=font_size, color=color)


def _add_scale(figure: Figure, norm: Normalize, colours: Colormap, label: str, from_right: float) -> None:
    """Add a colour bar for the shares, where the cells contain no counts, at a distance in inches from the right."""
    width, height = figure.get_size_inches()
    place = figure.add_axes((1 - from_right / width, 0.35, 0.1 / width, 0.3))
    scale = figure.colorbar(ScalarMappable(norm, colours), cax=place, label=label)
    scale.ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


@styled
def samples_figure(images: npt.ArrayLike, titles: Names) -> Figure:
    """Return a grid of `images` `(N, 3, H, W)` uint8 RGB, each under its title."""
    captions = [drawable(title, 22) for title in titles]
    return _image_grid(images, captions, "Training images as the network receives them", "No images")


@styled
def mistakes_figure(
    images: npt.ArrayLike, true: Names, predicted: Names, confidence: Sequence[float], num_images: int
) -> Figure:
    """Return a grid of mistakes, captioned `true → predicted 97 %`; without mistakes, a picture that says so.

    Args:
        images: the N misclassified ones, the worst first, `(N, 3, H, W)` uint8 RGB.
        true: the N classes they belong to.
        predicted: the N classes predicted for them.
        confidence: the N probabilities of the predicted classes, 0 to 1.
        num_images: number of all images that were classified.
    """
    captions = [
        f"{drawable(truth, 22)}\n→ {drawable(answer, 16)} {percent(probability, 0)}"
        for truth, answer, probability in zip(true, predicted, confidence, strict=True)
    ]
    title = f"The worst mistakes among {num_images:,} images: true → predicted, confidence"
    return _image_grid(images, captions, title, f"No mistakes among {num_images:,} images")


def _image_grid(images: npt.ArrayLike, captions: Names, title: str, if_none: str) -> Figure:
    """Return `images` `(N, 3, H, W)` with their captions, or a picture of the text `if_none`."""
    pictures = np.asarray(images)
    if not len(pictures):
        figure, axes = panels(6, 2, margins=Margins(0.12, 0.12, 0.12, 0.12), subplot_kw={"xticks": [], "yticks": []})
        axes.text(0.5, 0.5, if_none, transform=axes.transAxes, ha="center", va="center", fontsize=14, color=GREY)
        axes.spines[:].set(visible=True, color=PALE)
        return figure
    num_columns = max(3, math.ceil(math.sqrt(len(pictures))))  # two columns would be narrower than the title
    num_rows = math.ceil(len(pictures) / num_columns)
    side, gap, top = 2.0, 0.1, 0.35  # inches: a picture's width, the space beside it, the title's height
    picture_height = side * pictures.shape[2] / pictures.shape[3]
    caption_height = 0.1 + 0.16 * (1 + max(text.count("\n") for text in captions))
    row_height = caption_height + picture_height
    width, height = num_columns * (side + gap) + gap, top + num_rows * row_height + gap
    figure = Figure(figsize=(width, height), dpi=100)
    # One pair of axes in inches, from the upper left: separate axes for each picture take four times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(gap, gap, title, ha="left", va="top", fontsize=_TITLE_SIZE, weight="bold")
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, num_columns)
        left, upper = gap + column * (side + gap), top + row * row_height + caption_height
        axes.imshow(picture.transpose(1, 2, 0), extent=(left, left + side, upper + picture_height, upper))
        axes.text(left + side / 2, upper - 0.05, caption, ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure
