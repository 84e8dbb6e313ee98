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
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from MLPipeline.report.Names import drawable, width
from MLPipeline.report.PlotStyle import (
    BLUE,
    BLUES,
    GREY,
    INK,
    ORANGE,
    ORANGES,
    PALE,
    percent,
    save_figure,
    styled,
)

Names = Sequence[str]

MIN_CELL = 0.16  # inches: the smallest cell of a confusion matrix with a readable label
MAX_CLASSES_WITH_COUNTS = 60  # with more, a cell is too small for its number


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
    figure = Figure(figsize=(9, 3.6))
    columns = {name: np.asarray(values, float) for name, values in history.items()}
    val_loss = columns["val_loss"]
    best = int(np.nanargmin(val_loss)) if np.isfinite(val_loss).any() else None
    # A single epoch needs a marker to be seen; hundreds of markers hide the line.
    look = {"marker": "o", "markersize": 3.5, "linewidth": 1.8} if len(val_loss) <= 30 else {"linewidth": 1.2}
    panels: Any = figure.subplots(1, 2)
    for axes, name, as_text in zip(panels, ("loss", "accuracy"), ("{:.4f}".format, percent), strict=True):
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
    names = [drawable(name, 24) for name in classes]
    cell = min(max(6 / len(classes), MIN_CELL), 0.7, 24 / len(classes))
    step = math.ceil(MIN_CELL / cell)  # with more than 150 classes only some can be labelled
    font_size = min(9.0, 50 * cell * step)
    longest = max(map(width, names)) * font_size * 0.6 / 72  # inches
    figure = Figure(figsize=(cell * len(classes) + longest + 2, cell * len(classes) + longest + 1))
    axes = figure.subplots()
    on_diagonal = np.eye(len(classes), dtype=bool)
    right = axes.imshow(np.ma.masked_where(~on_diagonal, shares), cmap=BLUES, vmin=0, vmax=1)
    # The square root makes small shares visible: also one mistake in twenty images.
    wrong = axes.imshow(np.ma.masked_where(on_diagonal, shares), cmap=ORANGES, norm=PowerNorm(0.5, 0, 1))
    title = "Confusion matrix, % of the true class" if is_normalized else "Confusion matrix"
    axes.set(title=title, xlabel="Predicted class", ylabel="True class")
    axes.spines[:].set_visible(False)
    ticks = range(0, len(names), step)
    axes.set_xticks(ticks, names[::step], rotation=0 if longest < cell else 90, fontsize=font_size)
    axes.set_yticks(ticks, names[::step], fontsize=font_size)
    _write_recalls(axes, ticks, shares.diagonal(), supports, font_size)
    axes.grid(False)
    if step == 1:
        _part_cells(axes, len(names))
    if len(classes) <= MAX_CLASSES_WITH_COUNTS:
        _write_cells(axes, counts, shares, cell, is_normalized)
    else:
        _add_scale(figure, axes, right, "Share of the true class, correct")
        _add_scale(figure, axes, wrong, "Share of the true class, wrong")
    return figure


def _part_cells(axes: Axes, num_classes: int) -> None:
    """Draw thin lines between rows and columns; as the grid of minor ticks, they would take a fifth of the time."""
    edges = np.arange(num_classes + 1) - 0.5
    look: Any = {"colors": PALE, "linewidths": matplotlib.rcParams["grid.linewidth"], "zorder": 1}
    axes.hlines(edges, edges[0], edges[-1], **look)
    axes.vlines(edges, edges[0], edges[-1], **look)


def _write_recalls(
    axes: Axes, rows: range, recalls: npt.NDArray[np.float64], supports: npt.NDArray[np.int64], font_size: float
) -> None:
    """Write recall and number of images of each class on the right; with 100 images or more, recall has a decimal."""
    texts = [
        f"{percent(recalls[row], 0 if supports[row] < 100 else 1)} of {supports[row]:,}" if supports[row] else "–"
        for row in rows
    ]
    margin = axes.secondary_yaxis("right")
    margin.set_yticks(rows, texts, fontsize=font_size, color=BLUE)
    margin.spines[:].set_visible(False)
    margin.set_ylabel("Recall", color=BLUE)


def _write_cells(
    axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], cell: float, is_normalized: bool
) -> None:
    """Write the count, or the share in percent, into every cell that has one."""
    texts = (100 * shares).round().astype(int).astype(str) if is_normalized else counts.astype(str)
    font_size = min(10.0, 72 * cell * 0.45, 72 * cell * 1.3 / max(map(len, texts.flat)))
    for row, column in np.argwhere(counts):
        color = "white" if shares[row, column] > 0.8 else INK
        look: Any = {"ha": "center", "va": "center", "fontsize": font_size, "color": color}
        axes.text(
            column, row, texts[row, column], in_layout=False, **look
        )  # it fits into the cell: layout can ignore it


def _add_scale(figure: Figure, axes: Axes, image: AxesImage, label: str) -> None:
    """Add a colour bar for the shares, where the cells contain no counts."""
    scale = figure.colorbar(image, ax=axes, shrink=0.3, pad=0.01, aspect=30, label=label)
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
        figure = Figure(figsize=(6, 2))
        axes = figure.subplots(subplot_kw={"xticks": [], "yticks": []})
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
    figure.set_layout_engine("none")
    # One pair of axes in inches, from the upper left: separate axes for each picture take four times as long.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(gap, gap, title, ha="left", va="top", fontsize=11, weight="bold")
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, num_columns)
        left, upper = gap + column * (side + gap), top + row * row_height + caption_height
        axes.imshow(picture.transpose(1, 2, 0), extent=(left, left + side, upper + picture_height, upper))
        axes.text(left + side / 2, upper - 0.05, caption, ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure
