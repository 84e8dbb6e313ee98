"""Where very many images look alike, the number of comparisons grows with the images, not with the pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.images import ConfirmCopies
from MLPipeline.images.ConfirmCopies import confirm_copies
from tests.support.duplicate_cases import encode, scene

NUM_IMAGES = 60


@pytest.fixture
def path_of(tmp_path: Path) -> Callable[[int], Path]:
    (tmp_path / "0.jpg").write_bytes(encode(scene(0)))
    return lambda position: tmp_path / ("0.jpg" if position < NUM_IMAGES else "gone.jpg")


def confirmed(monkeypatch: pytest.MonkeyPatch, path_of, are_copies: bool) -> tuple[np.ndarray, int, np.ndarray]:
    """Return which of all pairs are confirmed, after how many comparisons, and the pairs (2, K)."""
    comparisons = []
    monkeypatch.setattr(ConfirmCopies, "is_same_picture", lambda *_: comparisons.append(1) or are_copies)
    pairs = np.array(list(itertools.combinations(range(NUM_IMAGES), 2))).T
    is_copy = confirm_copies(*pairs, np.linspace(0, 1, pairs.shape[1]), path_of)
    return is_copy, len(comparisons), pairs


def test_frames_that_are_all_copies_are_linked_in_few_comparisons(monkeypatch, path_of) -> None:
    is_copy, number, pairs = confirmed(monkeypatch, path_of, are_copies=True)
    assert number == is_copy.sum() == NUM_IMAGES - 1  # of 1,770 pairs
    assert set(pairs[:, is_copy].ravel()) == set(range(NUM_IMAGES))


def test_images_that_only_look_alike_are_compared_with_a_few_each(monkeypatch, path_of) -> None:
    is_copy, number, _ = confirmed(monkeypatch, path_of, are_copies=False)
    assert not is_copy.any() and number <= NUM_IMAGES * ConfirmCopies.MAX_DIFFERENT


def test_a_file_that_has_vanished_is_no_copy(path_of) -> None:
    first, second = np.array([0, 0]), np.array([1, NUM_IMAGES])
    assert confirm_copies(first, second, np.array([0.9, 1.0]), path_of).tolist() == [True, False]


def test_a_large_class_of_frames_is_decided_by_a_sample_unless_one_pair_differs(monkeypatch, path_of) -> None:
    monkeypatch.setattr(ConfirmCopies, "MAX_IN_FULL", 20)
    monkeypatch.setattr(ConfirmCopies, "NUM_SAMPLED", 10)
    pairs = np.array(list(itertools.combinations(range(NUM_IMAGES), 2))).T
    is_inside = (pairs < 40).all(axis=0)  # a class of 40 images; the others are of several classes or splits
    classes = np.where(is_inside, 0, -1)
    comparisons: list[int] = []

    def confirm(is_same: Callable[[int], bool]) -> np.ndarray:
        comparisons.clear()
        numbers = itertools.count(1)  # several threads compare

        def is_same_picture(*_: object) -> bool:
            comparisons.append(number := next(numbers))
            return is_same(number)

        monkeypatch.setattr(ConfirmCopies, "is_same_picture", is_same_picture)
        return confirm_copies(*pairs, np.linspace(1, 0, pairs.shape[1]), path_of, classes=classes)

    is_copy = confirm(lambda number: True)
    assert is_copy.sum() == NUM_IMAGES - 1  # as when each is checked
    assert len(comparisons) == 10 + is_copy[~is_inside].sum() < 50

    is_copy = confirm(lambda number: number != 5)  # the fifth of the sample differs: all of the class are checked
    assert is_copy.sum() == NUM_IMAGES - 1 and len(comparisons) >= 5 + NUM_IMAGES - 1
