"""`choice.html`: the backbones that were compared, how accurate and how slow each is, and which one was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MLPipeline.choosing.Choice import CHOICE_PAGE, RULE, Choice, Result
from MLPipeline.report.Charts import BOTTOM, LEFT, RIGHT, TOP, Tick, round_values
from MLPipeline.report.Page import write_page


@dataclass(frozen=True)
class Point:
    """A backbone in the chart, where its number stands beside it."""

    x: float
    y: float
    top: float  # of its interval
    foot: float
    name: str
    is_chosen: bool
    text: str  # its figures


@dataclass(frozen=True)
class Scatter:
    """Accuracy against the time per image; `best_y` is the height of the best accuracy."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best_y: float


def write_choice_page(choice: Choice, folder: Path, command: str = "") -> None:
    """Write `choice.html` to `folder`; `command` trains what was chosen, unless the run does.

    Raises:
        ResourceError: it cannot be written.
    """
    content = {"choice": choice, "rule": RULE, "chart": scatter(choice), "command": command}
    write_page(folder / CHOICE_PAGE, "choice.html.jinja", content)


def scatter(choice: Choice) -> Scatter:
    """Return the chart of the backbones that were tested on as many images as the best."""
    shown = [each for each in choice.results if each.is_finalist]
    best = choice.best.accuracy
    bounds = {each: _bounds(each, best) for each in shown}
    times = [1000 * each.cost.seconds_per_image for each in shown]
    levels = np.asarray(round_values(*_span(list(bounds.values())), 5, steps=[1, 2, 5, 10]))
    across = round_values(0, 1.05 * max(times), 6)
    places = [float(tick) for tick in across if tick >= 0]

    def x(time_ms: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * time_ms / places[-1], 1)

    def y(share: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * float((share - levels[0]) / (levels[-1] - levels[0])), 1)

    points = []
    for each, time_ms in zip(shown, times, strict=True):
        low, high = bounds[each]
        name, is_chosen = each.backbone.to_text(), each is choice.chosen
        text = f"{100 * each.accuracy:.1f} % in {time_ms:.1f} ms per image"
        points.append(Point(x(time_ms), y(each.accuracy), y(high), y(low), name, is_chosen, text))
    decimals = max(0, math.ceil(-math.log10(100 * float(np.diff(levels).min())) - 1e-9))
    y_ticks = tuple(Tick(y(level), f"{100 * level:.{decimals}f} %") for level in levels.tolist())
    return Scatter(tuple(points), tuple(Tick(x(tick), f"{tick:g}") for tick in places), y_ticks, y(best))


def _bounds(result: Result, best: float) -> tuple[float, float]:
    """Return the interval of the difference from the best, on the scale of its accuracy."""
    if result.difference is None:
        return best, best
    return best + result.difference.low, best + result.difference.high


def _span(bounds: list[tuple[float, float]]) -> tuple[float, float]:
    lowest, highest = min(low for low, _ in bounds), max(high for _, high in bounds)
    return (lowest, highest) if highest > lowest else (lowest - 0.05, highest + 0.05)
