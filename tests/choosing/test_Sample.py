"""The sample of training images: stratified at every length, with copies together."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.choosing.Sample import beginning, stratified_order

LABELS = np.repeat([0, 1, 2], [600, 300, 100])


@pytest.mark.parametrize("number", [10, 50, 333, 1000])
def test_every_beginning_has_the_classes_in_proportion(number: int) -> None:
    chosen = beginning(stratified_order(LABELS, np.arange(1000), seed=3), np.arange(1000), number)
    assert len(chosen) == len(np.unique(chosen)) == number
    counts = np.bincount(LABELS[chosen], minlength=3)
    assert np.abs(counts - number * np.array([0.6, 0.3, 0.1])).max() <= 1
    assert (np.diff(chosen) > 0).all()


def test_a_longer_sample_contains_the_shorter_one() -> None:
    order = stratified_order(LABELS, np.arange(1000), seed=0)
    short, long = (set(beginning(order, np.arange(1000), number).tolist()) for number in (100, 400))
    assert short < long


def test_the_seed_draws_the_images_inside_the_classes() -> None:
    first, again, other = (stratified_order(LABELS, np.arange(1000), seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_images_of_a_group_stay_together_even_at_the_end_of_a_sample() -> None:
    groups = np.arange(1000) // 7
    order = stratified_order(LABELS, groups, seed=0)
    for number in (1, 30, 500):
        chosen = beginning(order, groups[order], number)
        assert set(np.flatnonzero(np.isin(groups, groups[chosen]))) == set(chosen.tolist())
        assert number <= len(chosen) < number + 7
