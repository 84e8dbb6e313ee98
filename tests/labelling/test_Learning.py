"""What is learned from labels: heads, temperatures, pictures chosen, and what further labels would bring."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.labelling.Choice import next_pictures, typical_pictures, unit_length
from MLPipeline.labelling.Learner import UNLABELLED, FittedHead, Learner
from MLPipeline.labelling.Outlook import SHARES, Accuracy, labels_for_next_point
from MLPipeline.labelling.Study import NUM_CHOSEN, NUM_TYPICAL, Known, study

NUM_CLASSES, NUM_FEATURES = 4, 24


def clusters(number: int, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) of classes that lie at the corners of a simplex, and their labels (N,).

    The noise is correlated: what disturbs the features that tell the classes apart is seen in others as well.
    """
    draw = np.random.default_rng(seed)
    labels = draw.integers(NUM_CLASSES, size=number)
    noise = draw.normal(0, spread, (number, NUM_FEATURES))
    noise[:, :NUM_CLASSES] += 2 * noise[:, NUM_CLASSES : 2 * NUM_CLASSES]
    return (3 * np.eye(NUM_CLASSES, NUM_FEATURES)[labels] + noise).astype(np.float32), labels


def first_labels(labels: np.ndarray, number: int) -> np.ndarray:
    return np.where(np.arange(len(labels)) < number, labels, UNLABELLED)


def learner_of(*parts: np.ndarray) -> Learner:
    learner = Learner()
    for end in range(1, len(parts) + 1):
        learner.take(np.concatenate(parts[:end]))
    return learner


def test_unlabelled_pictures_make_the_head_more_accurate() -> None:
    features, labels = clusters(1200, spread=0.6)
    few, learner = first_labels(labels, 16), learner_of(features)
    right = [
        float((head.logits(features[16:]).argmax(axis=1) == labels[16:]).mean())
        for head in (learner.fit_labelled(few, NUM_CLASSES), learner.fit(few, NUM_CLASSES))
    ]
    assert right[0] < 0.8 < 0.95 < right[1]


def test_the_order_in_which_features_come_in_does_not_matter() -> None:
    features, labels = clusters(300)
    some = first_labels(labels, 20)
    at_once, in_parts = learner_of(features), learner_of(features[:7], features[7:200], features[200:])
    one, other = (learner.fit(some, NUM_CLASSES).weights for learner in (at_once, in_parts))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_with_all_labels_the_head_is_that_of_the_labels() -> None:
    features, labels = clusters(60)
    learner = learner_of(features)
    one, other = learner.fit(labels, NUM_CLASSES), learner.fit_labelled(labels, NUM_CLASSES)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_probabilities_are_not_overconfident_and_a_class_without_labels_has_none() -> None:
    features, labels = clusters(2000, spread=0.8)
    some = first_labels(labels, 200)
    learner = learner_of(features)
    temperature = learner.temperature(some, NUM_CLASSES + 1)
    shares = FittedHead(learner.fit(some, NUM_CLASSES + 1), temperature).probabilities(features[200:])
    is_right = shares.argmax(axis=1) == labels[200:]
    assert (shares[:, NUM_CLASSES] == 0).all()
    assert is_right.mean() - 0.1 < shares.max(axis=1).mean() < is_right.mean() + 0.03


def test_the_first_pictures_are_of_all_clusters_and_the_largest_comes_first() -> None:
    features, labels = clusters(200, spread=0.2)
    features, labels = np.concatenate([features, features[labels == 2] + 0.01]), np.append(labels, labels[labels == 2])
    chosen = typical_pictures(features, NUM_CLASSES)
    assert sorted(labels[chosen].tolist()) == list(range(NUM_CLASSES))
    assert labels[chosen[0]] == 2


def test_the_next_pictures_are_uncertain_and_unlike_each_other() -> None:
    features, _ = clusters(400, spread=0.3)
    probabilities = np.tile([0.9, 0.1, 0.0, 0.0], (400, 1))
    uncertain = np.arange(100, 100 + 4 * 5)
    probabilities[uncertain] = [0.5, 0.49, 0.01, 0.0]
    chosen = next_pictures(features, probabilities, 5)
    assert len(set(chosen.tolist())) == 5 and set(chosen.tolist()) <= set(uncertain.tolist())
    rows = unit_length(features)
    first_five = rows[uncertain[:5]]
    spread = [np.linalg.norm(each[:, None] - each[None], axis=2).sum() for each in (rows[chosen], first_five)]
    assert spread[0] >= spread[1]


def test_fewer_pictures_than_wanted_are_all_chosen() -> None:
    features, _ = clusters(3)
    assert sorted(typical_pictures(features, 5).tolist()) == [0, 1, 2]
    assert sorted(next_pictures(features, np.full((3, 2), 0.5), 5).tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("errors", "num_labels", "num_tested", "more"),
    [
        ([0.4, 0.28, 0.2], 100, 50, 10),  # each doubling takes away a third
        ([0.4, 0.28, 0.2], 1000, 50, 100),
        ([0.22, 0.21, 0.205], 100, 50, None),  # the curve is flat: hardly anything is gained
        ([0.2, 0.21, 0.2], 100, 50, None),
        ([0.4, 0.28, 0.2], 100, 29, None),  # too small a sample
        ([0.4, 0.28, 0.2], 39, 50, None),  # too few labels
        ([0.1, 0.05, 0.0], 100, 50, None),  # no error is left
    ],
)
def test_how_many_more_labels_the_next_point_takes(
    errors: list[float], num_labels: int, num_tested: int, more: int | None
) -> None:
    found = labels_for_next_point(np.array(errors), num_labels, num_tested)
    assert found is more if more is None else found is not None and more / 2 <= found <= more * 2


def test_one_more_point_is_what_a_power_law_says() -> None:
    errors = 0.5 * (400 * SHARES) ** -0.3
    found = labels_for_next_point(errors, 400, 100)
    needed = (errors[-1] - 0.01) / 0.5
    assert found is not None and found == pytest.approx(needed ** (-1 / 0.3) - 400, rel=0.2)


def known_of(num_labels: int, num_sample: int = 40, **more: object) -> Known:
    features, labels = clusters(400, spread=0.6)
    return Known(
        features=features[num_sample:],
        labels=first_labels(labels[num_sample:], num_labels),
        order=np.arange(400 - num_sample),
        sample=features[:num_sample],
        sample_labels=labels[:num_sample],
        is_open=np.ones(400 - num_sample, bool),
        num_classes=NUM_CLASSES,
        **more,
    )


def test_a_round_without_labels_only_chooses() -> None:
    found = study(Learner(), known_of(0))
    assert found.head is None and found.accuracy == Accuracy(0, 0) and found.num_more is None
    assert len(set(found.chosen.tolist())) == NUM_TYPICAL


def test_a_round_tests_on_the_sample_and_chooses_among_open_unlabelled_pictures() -> None:
    known = known_of(60)
    known.is_open[100:] = False
    found = study(Learner(), known)
    assert found.accuracy.num_tested == 40 and 0.8 < found.accuracy.share <= 1
    low, high = found.accuracy.interval
    assert 0.8 < low < found.accuracy.share <= high <= 1
    assert len(found.chosen) == NUM_CHOSEN and ((found.chosen >= 60) & (found.chosen < 100)).all()
    assert not len(study(Learner(), known_of(60, wants_choice=False)).chosen)


def test_the_labels_of_the_sample_do_not_train() -> None:
    known = known_of(60)
    before = study(Learner(), known)
    known.sample_labels[:] = 0
    after = study(Learner(), known)
    assert before.head and after.head
    np.testing.assert_array_equal(before.head.head.weights, after.head.head.weights)
    assert after.accuracy.share < 0.5
