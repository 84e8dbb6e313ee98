"""The head that is best on images it was not fitted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from MLPipeline.heads import SolveHead
from MLPipeline.heads.HeadImages import HeadImages, plain_images
from MLPipeline.heads.SolveHead import AUTO, AVERAGE, LOGISTIC, RIDGE, solve
from tests.support.audit_cases import NUM_CLASSES, clusters

KINDS = pytest.mark.parametrize("kind", [RIDGE, LOGISTIC, AUTO])


def made(number: int, seed: int = 0) -> HeadImages:
    rows, labels = clusters(number, seed)
    return plain_images(rows.astype(np.float32), labels.astype(np.int64), NUM_CLASSES)


@KINDS
def test_it_classifies_new_images_as_well_as_out_of_fold(kind: str) -> None:
    images, others = made(300), made(2000, seed=1)
    solution = solve(images, kind, 0)
    is_right = solution.head.logits(others.rows).argmax(1) == others.labels
    assert solution.num_images == 300
    assert is_right.mean() == pytest.approx(solution.chosen.accuracy, abs=0.05)


@KINDS
def test_its_logits_are_calibrated(kind: str) -> None:
    images, others = made(300), made(2000, seed=1)
    logits = solve(images, kind, 0).head.logits(others.rows).astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (shares / shares.sum(1, keepdims=True)).max(1).mean()
    assert confidence == pytest.approx((logits.argmax(1) == others.labels).mean(), abs=0.05)


def test_auto_has_the_lowest_loss_of_all() -> None:
    solution = solve(made(300), AUTO, 0)
    assert [each.kind for each in solution.candidates] == [RIDGE, LOGISTIC, AVERAGE]
    assert solution.chosen.loss == min(each.loss for each in solution.candidates)
    for kind, candidate in zip((RIDGE, LOGISTIC), solution.candidates, strict=False):
        assert solve(made(300), kind, 0).chosen == candidate


def test_the_average_is_the_mean_of_both_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = SolveHead._Comparison._judge

    def prefers_the_average(self: object, kind: str, penalty: float | None, logits: np.ndarray) -> SolveHead.Candidate:
        found = judge(self, kind, penalty, logits)  # type: ignore[arg-type]
        return replace(found, loss=0.0) if kind == AVERAGE else found

    heads = [solve(made(300), kind, 0).head for kind in (RIDGE, LOGISTIC)]
    monkeypatch.setattr(SolveHead._Comparison, "_judge", prefers_the_average)
    solution = solve(made(300), AUTO, 0)
    mean = (heads[0].weights + heads[1].weights) / 2 / solution.chosen.temperature
    assert solution.chosen.kind == AVERAGE
    assert np.allclose(solution.head.weights, mean, atol=1e-2 * np.abs(mean).max())


def test_copies_are_left_out_together() -> None:
    """Labels are random: only a head that has seen a copy of an image can know its label."""
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(60, 100)).astype(np.float32), draw.integers(2, size=60)
    images = plain_images(np.repeat(rows, 2, 0), np.repeat(labels, 2), 2, np.repeat(np.arange(60), 2))
    assert solve(images, AUTO, 0).chosen.accuracy < 0.7
    assert solve(replace(images, groups=np.arange(120)), AUTO, 0).chosen.accuracy > 0.8


def test_views_are_fitted_on_and_never_left_out() -> None:
    images = made(100)
    views = replace(images, rows=images.rows + 0.1, is_view=np.ones(100, bool))
    names = ("rows", "labels", "groups", "weights", "is_view")
    both = replace(images, **{name: np.concatenate([getattr(images, name), getattr(views, name)]) for name in names})
    assert solve(both, RIDGE, 0).num_images == 100
    assert not np.allclose(solve(both, RIDGE, 0).head.weights, solve(images, RIDGE, 0).head.weights)


@KINDS
def test_heavier_classes_are_predicted_more_often(kind: str) -> None:
    images, others = made(200), made(1000, seed=1)
    heavy = replace(images, weights=np.where(images.labels == 0, 20.0, 1.0).astype(np.float32))
    heads = [solve(each, kind, 0).head for each in (images, heavy)]
    plain, weighted = ((head.logits(others.rows).argmax(1) == 0).mean() for head in heads)
    assert weighted > plain


@KINDS
def test_one_image_of_each_class_is_enough(kind: str) -> None:
    rows = 5 * np.eye(4, 6, dtype=np.float32)
    solution = solve(plain_images(rows, np.arange(4), 4), kind, 0)
    assert (solution.num_images, solution.candidates) == (0, ())
    assert solution.head.logits(rows).argmax(1).tolist() == [0, 1, 2, 3]


def test_a_class_with_a_single_image_is_still_learnt() -> None:
    images = made(100)
    rows = np.concatenate([images.rows, np.full((1, images.rows.shape[1]), 30, np.float32)])
    labels = np.append(images.labels, NUM_CLASSES)
    solution = solve(plain_images(rows, labels, NUM_CLASSES + 1), AUTO, 0)
    assert solution.num_images == 100  # it cannot be left out
    assert solution.head.logits(rows)[-1].argmax() == NUM_CLASSES


def test_of_many_images_some_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SolveHead, "MAX_COMPARED", 100)
    solution = solve(made(300), RIDGE, 0)
    assert solution.num_images == 100
