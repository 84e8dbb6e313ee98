"""The gain by more images comes true, one step at a time; wrong labels are counted; tiny sets give no estimate."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.advice.StoredFeatures import count_suspects, more_images, reduced
from MLPipeline.audit.LearningCurve import measure_repeats
from tests.support.audit_cases import alone, clusters


def test_the_estimated_gain_is_that_of_training_on_more_images() -> None:
    features, labels = clusters(800, noise=2.2)
    found = more_images(features[:600], labels[:600], alone(labels[:600]), seed=0)
    with_more = measure_repeats(features, labels, alone(labels), 0)
    assert found and with_more
    assert found.step == 200
    true = with_more.accuracy[-1, 0] - found.accuracy[-1]
    assert 0 < found.gain < 0.05 and abs(found.gain - true) < 0.02
    assert found.gain_ci95[0] < found.gain < found.gain_ci95[1]


@pytest.mark.parametrize(("number", "step"), [(60, 30), (100, 50), (120, 60), (300, 150), (500, 200), (1000, 200)])
def test_a_step_is_at_most_200_images_and_half_of_those_there_are(number: int, step: int) -> None:
    features, labels = clusters(number)
    found = more_images(features, labels, alone(labels), 0)
    assert found and found.step == step


def test_the_classes_that_gain_most_are_named() -> None:
    features, labels = clusters(800, noise=1.0)
    noisy, _ = clusters(800, seed=1, noise=2.4)
    features = np.where((labels == 3)[:, None], noisy, features)
    found = more_images(features, labels, alone(labels), 0)
    assert found and next(iter(found.class_gains)) == 3 and len(found.class_gains) <= 2
    plain = found.to_plain(("a", "b", "c", "d"))
    assert next(iter(plain["class_gains"])) == "d" and plain["next_images"] == 200
    assert plain["num_images"][-1] == 640 and len(plain["accuracy_ci95"]) == len(plain["accuracy"])


@pytest.mark.parametrize("number", [1, 2, 12, 36])
def test_tiny_sets_give_no_estimate(number: int) -> None:
    features, labels = clusters(number)
    rows = reduced(features.astype(np.float32))
    assert more_images(rows, labels, alone(labels), 0) is None
    assert count_suspects(rows, labels, alone(labels), 0) == 0


def test_a_class_without_images_and_one_of_copies_are_survived() -> None:
    features, labels = clusters(200, noise=0.5)
    labels = np.where(labels == 2, 1, labels)  # of four classes, one has no images
    assert more_images(features, labels, alone(labels), 0) is not None
    groups = np.where(labels == 3, 3, alone(labels))
    assert more_images(features, labels, groups, 0) is None
    assert count_suspects(features, labels, groups, 0) == 0


def test_wrong_labels_are_counted() -> None:
    features, labels = clusters(400, noise=0.5)
    assert count_suspects(features, labels, alone(labels), 0) == 0
    wrong = labels.copy()
    wrong[:10] = (wrong[:10] + 1) % 4
    assert count_suspects(features, wrong, alone(labels), 0) == 10


def test_projected_features_keep_what_separates_the_classes() -> None:
    features, labels = clusters(300, noise=1.5)
    whole = more_images(features.astype(np.float32), labels, alone(labels), 0)
    projected = more_images(reduced(features.astype(np.float32)), labels, alone(labels), 0)
    assert whole and projected
    assert projected.accuracy == pytest.approx(whole.accuracy, abs=0.02)


def test_the_random_state_is_not_touched() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002  the state that must not change
    features, labels = clusters(100)
    more_images(features, labels, alone(labels), 0)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
