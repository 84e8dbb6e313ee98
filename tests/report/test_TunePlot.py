"""TunePlot: every complete trial is drawn over every setting, and the best is ringed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.report.TunePlot import TITLES, plot_tune, tune_figure
from MLPipeline.tuning.Tune import LEVELS, Trial


def trials(number: int = 40) -> list[Trial]:
    """Made-up trials: the loss is lowest at a rate of a hundredth; every fourth was given up."""
    draw = np.random.default_rng(0)
    made = []
    for each in range(number):
        settings = {name: levels[int(draw.integers(len(levels)))] for name, levels in LEVELS.items()}
        lr = float(10 ** draw.uniform(-4, 0))
        lr = lr if each else 0.001
        loss = 0.4 + 0.3 * abs(math.log10(lr) + 2) + float(draw.uniform(0, 0.1))
        made.append(Trial(each + 1, settings | {"lr": lr}, loss, 0.9, 3, each % 4 == 3, 1.0))
    return made


def test_each_setting_has_its_panel_with_its_levels() -> None:
    figure = tune_figure(trials())
    course, *panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == list(TITLES.values())
    assert course.get_title(loc="left") == "40 trials"
    assert panels[0].get_xscale() == "log"
    assert [tick.get_text() for tick in panels[6].get_xticklabels()] == ["none", "64", "256"]
    assert [tick.get_text() for tick in panels[3].get_xticklabels()] == ["0", "1e-5", "1e-4", "1e-3", "0.01", "0.1"]
    assert len(panels[5].get_xticks()) == len(LEVELS["dropout"])


def test_all_trials_are_drawn_and_the_best_is_ringed() -> None:
    complete = [trial for trial in trials() if not trial.is_pruned]
    best = min(complete, key=lambda trial: trial.val_loss)
    figure = tune_figure(trials())
    pruned, to_the_end, ring = figure.axes[1].lines
    assert (len(pruned.get_xdata()), len(to_the_end.get_xdata())) == (10, 30)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (best.settings["lr"], best.val_loss)
    falling = next(line for line in figure.axes[0].lines if line.get_label() == "best so far").get_ydata()
    assert falling[0] == trials()[0].val_loss and falling[-1] == best.val_loss and (np.diff(falling) <= 0).all()


def test_losses_beyond_the_picture_lie_at_its_edge() -> None:
    diverged = Trial(41, trials()[0].settings, math.inf, 0.0, 0, True, 1.0)
    axes = tune_figure([*trials(), diverged]).axes[1]
    assert axes.lines[0].get_ydata()[-1] < axes.get_ylim()[1]


@pytest.mark.parametrize("number", [1, 2])
def test_few_trials_are_a_picture_too(number: int, tmp_path: Path) -> None:
    plot_tune(trials(number), tmp_path / "tune.png")
    assert (tmp_path / "tune.png").stat().st_size > 10_000
