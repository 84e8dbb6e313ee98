"""The picture of a search: validation loss over the trials, and against each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from MLPipeline.report.PlotStyle import BLUE, GREY, INK, ORANGE, Margins, panels, save_figure, styled
from MLPipeline.tuning.Tune import LEVELS, Trial, nearest

TITLES = {
    "lr": "Learning rate",
    "optimizer": "Optimizer",
    "batch_size": "Batch size",
    "weight_decay": "Weight decay",
    "label_smoothing": "Label smoothing",
    "dropout": "Dropout",
    "hidden": "Hidden layer",
}
_SHOWN = 0.75  # share of the complete trials whose loss is inside the axes


def plot_tune(trials: Sequence[Trial], path: Path) -> None:
    """Save `tune_figure` as PNG."""
    save_figure(tune_figure(trials), path)


@styled
def tune_figure(trials: Sequence[Trial]) -> Figure:
    """Return validation loss over the trials, and over each setting; the best trial is ringed.

    Args:
        trials: at least one of them complete.
    """
    complete = [trial for trial in trials if not trial.is_pruned]
    figure, grid = panels(11, 5.6, 2, 4, Margins(top=0.75), (0.15, 0.55), sharey=True)
    parts = grid.flat
    losses = np.sort([trial.val_loss for trial in complete])
    low, high = losses[0], max(losses[math.ceil(_SHOWN * (len(losses) - 1))], complete[0].val_loss)
    margin = 0.08 * (high - low) or 0.1
    parts[0].set(title=f"{len(trials):,} trials", ylim=(low - margin, high + margin))
    _draw_points(parts[0], trials, [trial.number for trial in trials], high)
    falling = np.minimum.accumulate([trial.val_loss for trial in complete])
    steps = [*(trial.number for trial in complete), trials[-1].number]
    parts[0].step(steps, [*falling, falling[-1]], where="post", color=BLUE, label="best so far")
    look: Any = {"color": ORANGE, "linewidth": 1.2, "linestyle": (0, (4, 3))}
    parts[0].axhline(complete[0].val_loss, label="the model's own settings", **look)
    for axes, name in zip(parts[1:], TITLES, strict=True):
        axes.set_title(TITLES[name])
        _draw_points(axes, trials, _places(axes, trials, name), high)
    for axes in (parts[0], parts[4]):
        axes.set_ylabel("Validation loss")
    figure.legend(*parts[0].get_legend_handles_labels(), loc="upper right", ncols=5)
    return figure


def _places(axes: Axes, trials: Sequence[Trial], name: str) -> Sequence[float] | np.ndarray:
    """Return the x position of each trial for one setting: levels at equal distances, with jitter."""
    if name == "lr":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # the default writes formulas, which our style does not read
        axes.minorticks_off()
        return [trial.settings[name] for trial in trials]
    axes.set_xticks(range(len(LEVELS[name])), [_label(name, level) for level in LEVELS[name]])
    numbers = [nearest(LEVELS[name], trial.settings[name]) for trial in trials]
    return numbers + np.random.default_rng(0).uniform(-0.25, 0.25, len(trials))


def _label(name: str, level: Any) -> str:
    """Return the label of a level: `none`, `sgd`, 128, 0.1, 1e-4."""
    if name == "hidden" and not level:
        return "none"
    return (
        level if isinstance(level, str) else f"{level:.0e}".replace("e-0", "e-") if 0 < level < 0.01 else f"{level:g}"
    )


def _draw_points(axes: Axes, trials: Sequence[Trial], places: Sequence[float] | np.ndarray, highest: float) -> None:
    """Draw each trial, at the upper edge if its loss is higher, and a ring around the best."""
    x, losses = np.asarray(places), np.minimum([trial.val_loss for trial in trials], highest)
    is_pruned = np.array([trial.is_pruned for trial in trials])
    look: Any = {"linestyle": "none", "markeredgewidth": 0}
    axes.plot(x[is_pruned], losses[is_pruned], ".", color=GREY, alpha=0.25, label="stopped early", **look)
    axes.plot(x[~is_pruned], losses[~is_pruned], ".", color=BLUE, alpha=0.5, label="complete", **look)
    best = np.where(is_pruned, np.inf, losses).argmin()
    ring: Any = {"markeredgecolor": INK, "markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 8}
    axes.plot(x[best], losses[best], "o", label="best", **ring | {"linestyle": "none"})
