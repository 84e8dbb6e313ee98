"""Where the marks of a page's charts lie, and the shades of its matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest

from MLPipeline.report.Charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    confidence_histogram,
    line_chart,
    reliability_diagram,
)
from MLPipeline.report.MatrixView import Cell, most_confused, shaded_rows

NAN = math.nan


def test_curves_span_the_plot_and_the_best_epoch_is_marked() -> None:
    chart = line_chart("Loss", [1, 2, 3], {"validation": [1.0, 0.0, 0.5], "training": [0.8, 0.4, 0.2]}, 2, False)
    val, train = chart.curves
    assert (val.kind, train.kind) == ("a", "b")
    assert val.points == f"{LEFT}.0,{TOP}.0 217.0,{BOTTOM}.0 {RIGHT}.0,{(TOP + BOTTOM) / 2}"
    assert (chart.best.x, chart.best.y, chart.best.text) == (217.0, BOTTOM, "best epoch 2: 0.0000")
    assert [tick.label for tick in chart.y_ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]
    assert val.dots[2].text == "epoch 3: validation 0.5000"


@pytest.mark.parametrize("values", [[NAN, NAN], [math.inf, NAN]])
def test_without_validation_images_there_is_one_curve(values: list[float]) -> None:
    chart = line_chart("Accuracy", [1, 2], {"validation": values, "training": [0.5, 1.0]}, 2, True)
    assert [(curve.name, curve.kind) for curve in chart.curves] == [("training", "b")]
    assert chart.best is None and chart.y_ticks[-1].label == "100 %"


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [1e-9, 1e-9], [1e6, 2.0], [0.0, 0.0]])
def test_any_values_stay_inside_the_plot(values: list[float]) -> None:
    chart = line_chart("Loss", list(range(1, len(values) + 1)), {"validation": values}, 1, False)
    for dot in chart.curves[0].dots:
        assert LEFT <= dot.x <= RIGHT and TOP <= dot.y <= BOTTOM
    assert all(TOP - 0.1 <= tick.at <= BOTTOM + 0.1 for tick in chart.y_ticks)
    assert len({tick.label for tick in chart.y_ticks}) == len(chart.y_ticks)


def test_a_thousand_epochs_have_no_dots_and_few_ticks() -> None:
    chart = line_chart("Loss", list(range(1, 1001)), {"validation": np.linspace(1, 0, 1000).tolist()}, 1000, False)
    assert chart.curves[0].dots == () and chart.curves[0].points.count(",") == 1000
    assert len(chart.x_ticks) <= 7 and chart.x_ticks[-1].label == "1,000"


def test_the_histogram_counts_right_upon_wrong() -> None:
    chart = confidence_histogram(np.array([0.95, 0.99, 1.0, 0.31]), np.array([True, True, False, False]))
    low, foot, top = chart.bars
    assert (low.kind, foot.kind, top.kind) == ("wrong", "wrong", "a")
    assert low.text == "confidence 30 to 40 %: 0 correct, 1 wrong"
    assert top.text == foot.text == "confidence 90 to 100 %: 2 correct, 1 wrong"
    assert top.height == pytest.approx(2 * foot.height, abs=0.11)
    assert foot.y + foot.height == BOTTOM and top.y + top.height == pytest.approx(foot.y, abs=0.11)


def test_the_reliability_diagram_shows_the_share_of_right_answers() -> None:
    confidence, is_right = np.full(20, 0.85), np.arange(20) < 15
    few, many = reliability_diagram(np.append(confidence, 0.55), np.append(is_right, True)).bars
    assert (few.kind, few.height) == ("few", BOTTOM - TOP)
    assert (many.kind, many.text) == ("a", "confidence 80 to 90 %: accuracy 75 % of 20")
    assert many.height == pytest.approx(0.75 * (BOTTOM - TOP), abs=0.1)


def test_shades_of_the_matrix_follow_the_share_of_the_class() -> None:
    rows = shaded_rows(np.array([[95, 5, 0], [0, 0, 0], [1, 0, 1]]))
    assert rows[0] == [Cell(0, 0, 95, 10), Cell(0, 1, 5, 3), Cell(0, 2, 0, 0)]  # sqrt(0.05) = 0.22
    assert [cell.shade for cell in rows[1]] == [0, 0, 0]
    assert [cell.shade for cell in rows[2]] == [8, 0, 5]


def test_the_most_frequent_mistakes_come_first_and_right_answers_are_none() -> None:
    matrix = np.array([[9, 2, 0], [5, 9, 0], [0, 1, 9]])
    assert most_confused(matrix, 2) == [Cell(1, 0, 5), Cell(0, 1, 2)]
    assert len(most_confused(matrix, 99)) == 3 and matrix[0, 0] == 9
    assert most_confused(np.array([[7]]), 5) == []
