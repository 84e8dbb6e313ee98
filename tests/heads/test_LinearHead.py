"""The closed-form head: as right as scikit-learn's, and its sums add up and subtract."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from MLPipeline.heads import LinearHead
from MLPipeline.heads.Folds import assign_folds
from MLPipeline.heads.LinearHead import Sums, head_of_few, product, sum_up
from tests.support.audit_cases import NUM_CLASSES, clusters


def sums_of(features: np.ndarray, labels: np.ndarray) -> Sums:
    return sum_up(features, labels, NUM_CLASSES, np.arange(len(labels)))


def test_its_answers_are_those_of_discriminant_analysis() -> None:
    features, labels = clusters(400)
    covariance = np.mean([np.cov(features[labels == k].T.astype(float), bias=True) for k in range(NUM_CLASSES)], axis=0)
    scale = np.trace(covariance) / len(covariance)
    shrunk = (1 - LinearHead.SHRINKAGE) * covariance + LinearHead.SHRINKAGE * scale * np.eye(len(covariance))
    oracle = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Given(shrunk)).fit(features, labels)
    ours = sums_of(features, labels).head().logits(features.astype(np.float32))
    theirs = oracle.decision_function(features)
    assert np.allclose(ours - ours[:, :1], theirs - theirs[:, :1], atol=1e-2)


class Given:
    """An estimator that returns the covariance it was given."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, _: np.ndarray) -> None:
        pass


def test_all_less_one_part_is_what_the_others_sum_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearHead, "_ROWS_AT_ONCE", 7)
    features, labels = clusters(90)
    part, rest = np.arange(30), np.arange(30, 90)
    left = sums_of(features, labels) - sum_up(features, labels, NUM_CLASSES, part)
    direct = sum_up(features, labels, NUM_CLASSES, rest)
    for name in ("counts", "features", "products"):
        assert np.allclose(getattr(left, name), getattr(direct, name), atol=1e-3)


def test_a_class_without_images_is_never_the_answer() -> None:
    features, labels = clusters(80)
    without = np.flatnonzero(labels != 2)
    logits = sum_up(features, labels, NUM_CLASSES, without).head().logits(features.astype(np.float32))
    assert np.isneginf(logits[:, 2]).all() and set(logits.argmax(axis=1)) == {0, 1, 3}


@pytest.mark.parametrize("number", [NUM_CLASSES, 30, 90])
def test_few_images_lead_to_the_same_answers_by_the_shorter_way(number: int) -> None:
    features, labels = clusters(number + 10)
    wide = np.tile(features, 40) + np.random.default_rng(0).normal(size=(number + 10, 40 * features.shape[1]))
    wide, labels = wide.astype(np.float16), np.where(labels == 2, 0, labels)  # class 2 has no images
    chosen, rows = np.arange(number), wide[number:].astype(np.float32)
    short = head_of_few(wide, labels, NUM_CLASSES, chosen).logits(rows)
    long = sum_up(wide, labels, NUM_CLASSES, chosen).head().logits(rows)
    assert wide.shape[1] > number and np.isneginf(short[:, 2]).all()
    kept = [0, 1, 3]
    assert np.allclose(short[:, kept], long[:, kept], rtol=1e-3, atol=1e-3 * np.abs(long[:, kept]).max())


def test_features_that_are_all_alike_make_no_trouble() -> None:
    labels = np.arange(40) % NUM_CLASSES
    alike = np.ones((40, 5), np.float32)
    for head in (sums_of(alike, labels).head(), head_of_few(alike, labels, NUM_CLASSES, np.arange(40))):
        assert np.isfinite(head.logits(np.ones((1, 5)))).all()


def test_one_image_of_each_class_is_enough() -> None:
    features, labels = clusters(NUM_CLASSES)
    logits = sums_of(features, labels).head().logits(features.astype(np.float32))
    assert logits.argmax(axis=1).tolist() == labels.tolist()


def test_folds_spread_every_class_and_keep_groups_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    groups = np.arange(75)
    groups[[10, 11, 12]] = 10
    folds = assign_folds(labels, groups, 5, seed=3)
    assert len(set(folds[[10, 11, 12]])) == 1
    for label, share in ((0, 10), (1, 4), (2, 1)):
        assert np.abs(np.bincount(folds[labels == label], minlength=5) - share).max() <= 3
    assert not np.array_equal(folds, assign_folds(labels, groups, 5, seed=4))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.float32), (np.float16, np.float32)])
def test_a_product_is_that_of_numpy(dtypes: tuple[type, type]) -> None:
    draw = np.random.default_rng(0)
    first, second = (draw.normal(size=size).astype(dtype) for size, dtype in zip(((5, 7), (9, 7)), dtypes, strict=True))
    first.flags.writeable = False
    found = product(first, second.T)
    assert found.dtype == (first @ second.T).dtype
    assert np.allclose(found, first @ second.T, atol=1e-5)
