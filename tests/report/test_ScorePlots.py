"""The pictures drawn from scores: what they show, and the rankings behind two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.report.ScorePlots import (
    FIGURES,
    per_class_figure,
    plot_scores,
    rank,
    ranking_figure,
    reliability_figure,
    shares_figure,
)
from MLPipeline.report.Scores import Scores
from MLPipeline.scoring.Metrics import evaluate
from MLPipeline.scoring.Predictions import Predictions
from tests.support.figure_texts import assert_apart, parts_of
from tests.support.page_cases import HOSTILE


def scores_of(logits: list[list[float]], labels: list[int], classes: tuple[str, ...] = ("cat", "dog", "emu")) -> Scores:
    given = torch.tensor(logits, dtype=torch.float32).reshape(len(labels), len(classes))
    predictions = Predictions(given, torch.tensor(labels, dtype=torch.int64))
    arrays = (each.numpy() for each in (predictions.probabilities, predictions.predicted, predictions.labels))
    return Scores(*arrays, evaluate(predictions, classes), classes)


# Two cats, one of them taken for a dog; one dog, surely found; no emu.
SOME = scores_of([[4, 0, 0], [0, 2, 0], [0, 6, 0]], [0, 0, 1])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=40))
def test_rankings_are_scikit_learns(pairs: list[tuple[float, bool]]) -> None:
    scores, members = (np.array(column) for column in zip(*pairs, strict=True))
    if members.all() or not members.any():
        return
    found = rank(scores, members)
    assert found.auroc == pytest.approx(roc_auc_score(members, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(members, scores), abs=1e-12)
    false_alarms, recall, _ = roc_curve(members, scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 201)
    assert np.allclose(found.recall, np.interp(grid, false_alarms, recall))
    precision, recall, _ = precision_recall_curve(members, scores)
    best = [precision[:-1][recall[:-1] >= place - 1e-12].max() for place in grid]
    assert np.allclose(found.precision, best)


def test_bars_begin_with_the_weakest_class_that_has_images() -> None:
    (axes,) = per_class_figure(SOME).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat (2)", "dog (1)"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 1.0]
    assert axes.lines[0].get_xdata().tolist() == [1.0, 0.5]  # precision: one cat of one, one dog of two
    assert [segment[0][0] for segment in axes.collections[0].get_segments()] == pytest.approx(
        [SOME.metrics["per_class"][name]["recall_ci95"][0] for name in ("cat", "dog")]
    )


def test_reliability_bars_are_shares_of_right_answers() -> None:
    top, bottom = reliability_figure(SOME).axes
    heights = {round(float(bar.get_x()), 1): bar.get_height() for bar in top.patches}
    assert heights == {0.7: 0.0, 0.9: 1.0}  # at 79 % the wrong dog; the others at 96 and 99 %
    assert sum(bar.get_height() for bar in bottom.patches) == 3
    assert top.get_title(loc="right") == f"expected calibration error {100 * SOME.metrics['ece']:.1f} %"


def test_curves_are_of_classes_with_images_of_both_kinds() -> None:
    left, right = ranking_figure(SOME).axes
    for axes in (left, right):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["1.000  mean of 2 classes"]
    assert "mean" not in str(ranking_figure(scores_of([[1, 0, 0]], [0])).axes[0].get_legend())


def test_the_normalized_matrix_holds_percentages() -> None:
    cells, *_ = parts_of(shares_figure(SOME).axes[0], 3)
    assert {text.get_position(): text.get_text() for text in cells} == {(0, 0): "50", (1, 0): "50", (1, 1): "100"}


@pytest.mark.parametrize(
    "classes", [("only",), HOSTILE, pytest.param(tuple(f"class {i}" for i in range(70)), marks=pytest.mark.slow)]
)
def test_every_figure_is_drawn_whatever_the_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    labels = [number % len(classes) for number in range(2 * len(classes))]
    logits = torch.nn.functional.one_hot(torch.tensor(labels), len(classes)).roll(1, 0) * 3.0
    scores = scores_of(logits.tolist(), labels, classes)
    plot_scores(scores, tmp_path)
    for name, figure_of in FIGURES.items():
        if classes is not HOSTILE:
            assert_apart(figure_of(scores))
        pixels = read_image(tmp_path / name).pixels
        assert min(pixels.shape[:2]) > 150 and max(pixels.shape[:2]) < 4500 and pixels.std() > 5


def test_without_images_the_figures_are_empty_but_there(tmp_path: Path) -> None:
    plot_scores(scores_of([], []), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FIGURES)
