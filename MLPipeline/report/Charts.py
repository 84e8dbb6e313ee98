"""Computes the layout of the charts on a page; `charts.html.jinja` draws them as SVG.

Positions are in units of a picture that is 400 wide and 242 high, with y pointing down. A run asks its drawing process
for the charts, which has imported matplotlib already; that takes 0.2 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 44, 390, 12, 196  # the plotting area, with room for labels on the left and below
MAX_DOTS = 60  # with more epochs, dots would hide the curve
NUM_BINS = 10
FEW = 10  # bars of fewer images are drawn pale


@dataclass(frozen=True)
class Tick:
    """A position on an axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A point of a curve, and its tooltip."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A line of a chart."""

    name: str
    kind: str  # a: the main curve, b: the other one
    points: str  # "x,y x,y ..."
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class LineChart:
    """Curves by epoch, or by what `axis` says; `best` marks a point of the first curve."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best: Dot | None
    axis: str = "Epoch"


@dataclass(frozen=True)
class Bar:
    """A bar or a segment of a stacked bar, extending from `y` downwards by `height`."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


@dataclass(frozen=True)
class BarChart:
    """Bars by confidence, 0 to 100 %."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def line_chart(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float]],
    best_epoch: int | None,
    as_share: bool,
    axis: str = "Epoch",
) -> LineChart:
    """Return a chart with the curves of `series`, by name, the main one first; non-finite values are left out.

    Args:
        title: the title of the chart.
        epochs: the numbers of the epochs, ascending.
        series: one value per epoch for each name.
        best_epoch: the epoch to mark on the first series, if its value is finite.
        as_share: whether the values are shares, 0 to 1, to be shown in percent.
        axis: what is counted, where that is not epochs.
    """
    first, last = (epochs[0], epochs[-1]) if len(epochs) > 1 else (0, 2)  # a single epoch is drawn in the middle
    levels, labels = _levels(list(chain.from_iterable(series.values())), as_share)

    def dot(epoch: int, value: float, what: str) -> Dot:
        across, up = (epoch - first) / (last - first), (value - levels[0]) / (levels[-1] - levels[0])
        shown = f"{100 * value:.1f} %" if as_share else f"{value:.4f}"
        return Dot(round(LEFT + (RIGHT - LEFT) * across, 1), _height_of(up), f"{what}{shown}")

    curves: list[Curve] = []
    for name, values in series.items():
        pairs = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
        dots = tuple(dot(epoch, value, f"{axis.lower()} {epoch:,}: {name} ") for epoch, value in pairs)
        points = " ".join(f"{each.x},{each.y}" for each in dots)
        kind = "b" if curves or name != next(iter(series)) else "a"
        curves += [Curve(name, kind, points, dots if len(dots) <= MAX_DOTS else ())] if dots else []
    best = None
    if best_epoch is not None and math.isfinite(value := next(iter(series.values()))[list(epochs).index(best_epoch)]):
        best = dot(best_epoch, value, f"best epoch {best_epoch}: ")
    ticks = [tick for tick in round_values(first, last, 6, integer=True) if epochs[0] <= tick <= epochs[-1]]
    x_ticks = tuple(Tick(dot(int(tick), levels[0], "").x, f"{int(tick):,}") for tick in ticks)
    return LineChart(title, tuple(curves), x_ticks, _y_ticks(levels, labels), best, axis)


def _levels(values: Sequence[float], as_share: bool) -> tuple[list[float], list[str]]:
    """Return the values of the horizontal grid lines, enclosing all `values`, and their labels."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    levels = np.asarray(round_values(min(finite), max(finite), 5, steps=[1, 2, 5, 10]))
    levels = levels[levels <= 1.0 + 1e-9] if as_share else levels
    scale = 100 if as_share else 1
    decimals = max(0, math.ceil(-math.log10(scale * float(np.diff(levels).min())) - 1e-9))
    return levels.tolist(), [f"{scale * level:.{decimals}f}{' %' * as_share}" for level in levels]


def round_values(low: float, high: float, number: int, **options: object) -> Sequence[float]:
    """Return about `number` round values from at most `low` to at least `high`."""
    from matplotlib.ticker import MaxNLocator  # not imported by the main process of a run, which unpickles charts

    return MaxNLocator(number, **options).tick_values(low, high)


def _height_of(share: float) -> float:
    """Return the y position at a share, 0 to 1, of the height of the plot."""
    return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _y_ticks(levels: Sequence[float], labels: Sequence[str]) -> tuple[Tick, ...]:
    span = levels[-1] - levels[0]
    places = [_height_of((level - levels[0]) / span) for level in levels]
    return tuple(Tick(place, label) for place, label in zip(places, labels, strict=True))


def confidence_histogram(confidence: np.ndarray, is_right: np.ndarray) -> BarChart:
    """Return the histogram of `confidence` (N,), with the wrong predictions at the bottom of each bar."""
    bins = _bins(confidence)
    right, wrong = (np.bincount(bins[is_right == flag], minlength=NUM_BINS).tolist() for flag in (True, False))
    highest = max(1, *map(sum, zip(right, wrong, strict=True)))
    levels = [int(level) for level in round_values(0, highest, 4, integer=True) if level >= 0]
    bars = []
    for place in range(NUM_BINS):
        text = f"confidence {_range(place)}: {right[place]:,} correct, {wrong[place]:,} wrong"
        foot = _height_of(wrong[place] / levels[-1])
        top = _height_of((wrong[place] + right[place]) / levels[-1])
        bars += [_bar(place, foot, BOTTOM, "wrong", text), _bar(place, top, foot, "a", text)]
    y_ticks = _y_ticks(levels, [f"{level:,}" for level in levels])
    return BarChart(tuple(bar for bar in bars if bar.height), _confidence_ticks(), y_ticks)


def reliability_diagram(confidence: np.ndarray, is_right: np.ndarray) -> BarChart:
    """Return the accuracy in each bin of `confidence` (N,); that of a calibrated model lies on the diagonal."""
    bins = _bins(confidence)
    bars = []
    for place in np.unique(bins).tolist():
        share, number = float(is_right[bins == place].mean()), int((bins == place).sum())
        text = f"confidence {_range(place)}: accuracy {100 * share:.0f} % of {number:,}"
        bars.append(_bar(place, _height_of(share), BOTTOM, "a" if number >= FEW else "few", text))
    quarters = range(0, 101, 25)
    return BarChart(tuple(bars), _confidence_ticks(), _y_ticks(quarters, [f"{quarter} %" for quarter in quarters]))


def _bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)


def _range(place: int) -> str:
    return f"{100 * place // NUM_BINS} to {100 * (place + 1) // NUM_BINS} %"


def _bar(place: int, top: float, foot: float, kind: str, text: str) -> Bar:
    step = (RIGHT - LEFT) / NUM_BINS
    return Bar(round(LEFT + step * place + 1.5, 1), top, round(step - 3, 1), round(foot - top, 1), kind, text)


def _confidence_ticks() -> tuple[Tick, ...]:
    return tuple(Tick(LEFT + (RIGHT - LEFT) * share / 4, f"{25 * share} %") for share in range(5))
