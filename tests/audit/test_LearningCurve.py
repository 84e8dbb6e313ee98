"""The learning curve: power laws are carried on as they run, and what was foretold comes true."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.audit import LearningCurve
from MLPipeline.audit.Judgement import Judgement, decode_judgement, encode_judgement
from MLPipeline.audit.LearningCurve import grown_error, learning_curve
from tests.support.audit_cases import alone, clusters

SHARES = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.0, 0.2, 0.5), (0.1, 0.2, 0.5), (0.05, 0.1, 1.0)])
def test_a_power_law_is_carried_on(floor: float, scale: float, exponent: float) -> None:
    then = grown_error(SHARES, floor + scale * SHARES**-exponent)
    assert then == pytest.approx(floor + scale * 2**-exponent, abs=0.004)


def test_what_does_not_improve_stays_as_it_is() -> None:
    assert grown_error(SHARES, np.full(5, 0.3)) == pytest.approx(0.3)
    assert grown_error(SHARES, np.array([0.1, 0.15, 0.2, 0.25, 0.3])) == pytest.approx(0.3)
    assert grown_error(SHARES, np.zeros(5)) == pytest.approx(0, abs=1e-5)


def test_what_half_of_the_images_foretell_comes_true_with_all() -> None:
    features, labels = clusters(2400, noise=2.2)
    half = learning_curve(features[:1200], labels[:1200], alone(labels[:1200]))
    whole = learning_curve(features, labels, alone(labels))
    assert half and whole
    assert half.overall.now < half.overall.then
    assert half.overall.interval[0] - 0.01 <= whole.overall.now <= half.overall.interval[1] + 0.01


def test_the_class_that_gains_most_is_named_first() -> None:
    features, labels = clusters(800, noise=1.0)
    features[labels == 3, 3] -= 2  # nearer to all others than they are to each other
    curve = learning_curve(features, labels, alone(labels))
    assert curve
    gains = [forecast.gain for forecast in curve.per_class.values()]
    assert gains == sorted(gains, reverse=True)
    assert min(curve.per_class, key=lambda label: curve.per_class[label].now) == 3
    assert curve.num_images[-1] == 640 and (np.diff(curve.num_images) > 0).all()
    assert (curve.interval[0] <= curve.accuracy).all() and (curve.accuracy <= curve.interval[1]).all()


def test_it_says_nothing_where_a_class_has_under_ten_images() -> None:
    features, labels = clusters(80)
    kept = np.flatnonzero((labels != 1) | (np.arange(80) < 36))
    assert learning_curve(features[kept], labels[kept], alone(kept)) is None


def test_it_says_nothing_where_a_class_consists_of_copies_of_one_picture() -> None:
    features, labels = clusters(80)
    groups = alone(labels)
    groups[labels == 1] = 1
    assert learning_curve(features, labels, groups) is None


def test_subsets_are_nested_and_keep_the_proportions() -> None:
    labels = np.repeat([0, 1], [160, 32])
    shells = LearningCurve._shells(labels, SHARES, np.random.default_rng(0))
    for number, share in enumerate(SHARES):
        assert np.bincount(labels[shells <= number]).tolist() == [160 * share, 32 * share]


def test_a_judgement_is_decoded_as_it_was_encoded() -> None:
    features, labels = clusters(120)
    curve = learning_curve(features, labels, alone(labels))
    assert curve
    found = decode_judgement(encode_judgement(Judgement(None, curve)))
    assert found.curve and found.suspects is None
    assert found.curve.overall.then == curve.overall.then and list(found.curve.per_class) == list(curve.per_class)
    assert np.array_equal(found.curve.interval, curve.interval)


def test_a_handful_of_images_never_gives_an_interval_without_width() -> None:
    """20 images that every repeat classifies correctly: that is no proof of 100 %."""
    labels = np.arange(20) % 2
    features = np.where(labels[:, None] == 0, 5.0, -5.0) + np.random.default_rng(0).normal(0, 0.1, (20, 6))
    curve = learning_curve(features.astype(np.float32), labels, np.arange(20))
    assert curve is not None and curve.accuracy[-1] == 1
    assert (curve.interval[1] - curve.interval[0] > 0.1).all()
    for forecast in (curve.overall, *curve.per_class.values()):
        assert forecast.interval[0] < 0.9 and forecast.interval[1] == pytest.approx(1)
