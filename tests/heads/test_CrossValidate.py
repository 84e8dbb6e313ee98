"""Every image is tested once, by a head that knows neither it nor its copies; the intervals of folds."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.heads.CrossValidate import Answer, cross_validate, widened
from MLPipeline.heads.HeadImages import HeadImages, plain_images
from MLPipeline.heads.SolveHead import solve
from MLPipeline.scoring.Intervals import variance_factor
from tests.support.audit_cases import NUM_CLASSES, clusters


def made(number: int) -> HeadImages:
    rows, labels = clusters(number)
    return plain_images(rows.astype(np.float32), labels.astype(np.int64), NUM_CLASSES)


class Recorder:
    """A fit that records what it was fitted on, and answers with the first feature of each image."""

    def __init__(self) -> None:
        self.fitted: list[HeadImages] = []

    def __call__(self, images: HeadImages) -> Answer:
        self.fitted.append(images)
        return lambda rows: np.repeat(rows[:, :1], images.num_classes, 1) + len(self.fitted)


@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_every_image_is_tested_once_and_in_order(num_folds: int) -> None:
    images, recorder = made(53), Recorder()
    found = cross_validate(images, recorder, num_folds, 0)
    assert found.tested.tolist() == list(range(53)) and found.short == {}
    numbers = np.round(found.logits[:, 0] - images.rows[:, 0]).astype(int)  # of the head that answered
    assert sorted(set(numbers)) == list(range(1, num_folds + 1))
    for number, fitted in enumerate(recorder.fitted, start=1):
        assert sorted([*fitted.groups, *np.flatnonzero(numbers == number)]) == list(range(53))


def test_a_head_never_knows_a_copy_of_what_it_is_tested_on() -> None:
    """Random labels: whoever knows a copy of each image is always right."""
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(60, 100)).astype(np.float32), draw.integers(2, size=60)
    images = plain_images(np.repeat(rows, 2, 0), np.repeat(labels, 2), 2, np.repeat(np.arange(60), 2))
    found = cross_validate(images, lambda others: solve(others, "ridge", 0).head.logits, 5, 0)
    assert (found.logits.argmax(1) == images.labels).mean() < 0.7


def test_a_class_of_few_groups_is_in_fewer_folds_and_one_of_a_single_group_is_not_tested() -> None:
    images = made(40)
    rows = np.concatenate([images.rows, np.ones((5, images.rows.shape[1]), np.float32)])
    labels = np.concatenate([images.labels, [NUM_CLASSES] * 3, [NUM_CLASSES + 1] * 2])
    groups = np.concatenate([images.groups, [100, 101, 102], [200, 200]])  # the last two are copies
    found = cross_validate(plain_images(rows, labels, NUM_CLASSES + 2, groups), Recorder(), 5, 0)
    assert found.short == {NUM_CLASSES: 3, NUM_CLASSES + 1: 1}
    assert found.tested.tolist() == list(range(43))


def test_intervals_of_folds_are_wider_on_both_sides_and_stay_shares() -> None:
    assert variance_factor(5) == pytest.approx(1.8)
    figures = {"accuracy": 0.8, "accuracy_ci95": [0.7, 0.86], "n": 30, "macro_f1": 0.99, "macro_f1_ci95": [0.9, 1.0]}
    figures |= {"auroc": 0.5, "per_class": {"a": {"recall": 0.5, "recall_ci95": [0.4, 0.6]}, "b": {"recall": None}}}
    wide, scale = widened(figures, 5), 1.8**0.5
    assert wide["accuracy_ci95"] == pytest.approx([0.8 - scale * 0.1, 0.8 + scale * 0.06])
    assert wide["macro_f1_ci95"] == [pytest.approx(0.99 - scale * 0.09), 1.0]
    assert wide["per_class"]["a"]["recall_ci95"] == pytest.approx([0.5 - scale * 0.1, 0.5 + scale * 0.1])
    assert (wide["accuracy"], wide["n"], wide["per_class"]["b"]) == (0.8, 30, {"recall": None})
    assert figures["accuracy_ci95"] == [0.7, 0.86]


def test_the_interval_holds_the_accuracy_on_new_images() -> None:
    """Over forty subsets of 60 images, the interval of 5 folds holds the accuracy on others, about as often as said."""
    from MLPipeline.scoring.Intervals import wilson_interval

    rows, labels = clusters(6000, noise=3.0)
    rows, labels, num_held, draws = rows.astype(np.float32), labels.astype(np.int64), 0, 40
    others = slice(60 * draws, None)
    for number in range(draws):
        chosen = slice(60 * number, 60 * number + 60)
        images = plain_images(rows[chosen], labels[chosen], NUM_CLASSES)

        def ridge(part: HeadImages) -> Answer:
            from MLPipeline.heads.LinearHead import sum_up

            return sum_up(part.rows, part.labels, NUM_CLASSES, np.arange(len(part))).head(0.3).logits

        found = cross_validate(images, ridge, 5, number)
        num_right = int((found.logits.argmax(1) == images.labels).sum())
        accuracy = num_right / 60
        figures = widened({"accuracy": accuracy, "accuracy_ci95": list(wilson_interval(num_right, 60))}, 5)
        truth = (ridge(images)(rows[others]).argmax(1) == labels[others]).mean()
        low, high = figures["accuracy_ci95"]
        num_held += low <= truth <= high
    assert num_held >= 36
