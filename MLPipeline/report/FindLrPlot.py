"""The picture of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from MLPipeline.report.PlotStyle import BLUE, GREY, ORANGE, panels, save_figure, styled


def plot_find_lr(rates: Sequence[float], losses: Sequence[float], suggested: float, path: Path) -> None:
    """Save `find_lr_figure` as PNG."""
    save_figure(find_lr_figure(rates, losses, suggested), path)


@styled
def find_lr_figure(rates: Sequence[float], losses: Sequence[float], suggested: float) -> Figure:
    """Return the loss against the learning rate; the suggested rate is marked."""
    figure, axes = panels(6, 3.6)
    axes.plot(rates, losses, color=BLUE, linewidth=1.8)
    axes.axvline(suggested, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set(
        title="Learning-rate range test", xlabel="Learning rate", ylabel="Training loss, running mean", xscale="log"
    )
    axes.xaxis.set_major_formatter("{x:g}")  # the default writes formulas, which our style does not read
    axes.minorticks_off()
    axes.set_title(f"suggested: {suggested:g}", loc="right", color=GREY, fontsize=9, weight="normal")
    return figure
