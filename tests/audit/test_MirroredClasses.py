"""Moves that exchange classes are found; moves that only make images look strange are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from MLPipeline.audit.MirroredClasses import edge_histograms, find_exchange


def arrow(rng: np.random.Generator, points_left: bool) -> np.ndarray:
    """A grey picture (64, 64) of a dark arrow anywhere on it."""
    image = np.full((64, 64), int(rng.integers(120, 220)), np.uint8)
    x, y, s = int(rng.integers(3, 20)), int(rng.integers(16, 48)), int(rng.integers(8, 13))
    shape = np.array([(0, 0), (s, -s), (s, -s // 3), (2 * s + 4, -s // 3), (2 * s + 4, s // 3), (s, s // 3), (s, s)])
    if not points_left:
        shape[:, 0] = 2 * s + 4 - shape[:, 0]
    cv2.fillPoly(image, [shape + (x, y)], 20)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def disc_or_square(rng: np.random.Generator, is_disc: bool) -> np.ndarray:
    image = np.full((64, 64), int(rng.integers(120, 220)), np.uint8)
    x, y, r = int(rng.integers(16, 48)), int(rng.integers(16, 48)), int(rng.integers(8, 14))
    if is_disc:
        cv2.circle(image, (x, y), r, 20, -1)
    else:
        cv2.rectangle(image, (x - r, y - r), (x + r, y + r), 20, -1)
    return image


def exchange_of(pictures: np.ndarray, labels: np.ndarray, moved: np.ndarray):
    rows, others = edge_histograms(pictures), edge_histograms(np.ascontiguousarray(moved))
    return find_exchange(rows, [others], [others], labels, int(labels.max()) + 1)


@pytest.mark.parametrize("number", [12, 40])
def test_arrows_are_exchanged_by_mirroring_left_to_right_and_by_no_other(number: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(2 * number) % 2
    pictures = np.stack([arrow(rng, label == 0) for label in labels])
    found = exchange_of(pictures, labels, pictures[:, :, ::-1])
    assert found is not None and {found.first, found.second} == {0, 1} and found.number >= 0.9 * found.total
    names = ("left", "right")
    assert found.to_text(names).endswith(f" are classified as {names[found.second]}")
    assert exchange_of(pictures, labels, pictures[:, ::-1]) is None


def test_two_of_four_classes_that_are_mirror_images_are_enough() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 4
    draw = [lambda: arrow(rng, True), lambda: disc_or_square(rng, True), lambda: arrow(rng, False)]
    draw.append(lambda: disc_or_square(rng, False))
    pictures = np.stack([draw[label]() for label in labels])
    found = exchange_of(pictures, labels, pictures[:, :, ::-1])
    assert found is not None and {found.first, found.second} == {0, 2}


def test_shapes_that_are_their_own_mirror_images_are_not_exchanged() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(80) % 2
    pictures = np.stack([disc_or_square(rng, label == 0) for label in labels])
    assert exchange_of(pictures, labels, pictures[:, :, ::-1]) is None


def test_a_class_whose_moved_images_look_like_another_is_not_exchanged_if_nothing_comes_back() -> None:
    """All arrows point left: mirrored, they are like nothing seen; all become discs, and no disc an arrow."""
    rng = np.random.default_rng(3)
    labels = np.arange(80) % 2
    features = np.where(labels[:, None] == 0, 1.0, -1.0) + rng.normal(0, 0.2, (80, 4))
    moved = np.full((80, 4), -1.0) + rng.normal(0, 0.2, (80, 4))
    assert find_exchange(np.float32(features), [np.float32(moved)], [np.float32(moved)], labels, 2) is None


@pytest.mark.parametrize("seed", range(5))
def test_noise_exchanges_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, moved = (rng.normal(0, 1, (200, 30)).astype(np.float32) for _ in range(2))
    assert find_exchange(rows, [moved], [moved], rng.integers(0, 4, 200), 4) is None


def test_five_images_of_a_class_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(10) % 2
    pictures = np.stack([arrow(rng, label == 0) for label in labels])
    assert exchange_of(pictures, labels, pictures[:, :, ::-1]) is None


@pytest.mark.parametrize("number", [1, 2, 6])
def test_fewer_images_than_folds_are_no_error(number: int) -> None:
    rows = np.random.default_rng(0).normal(0, 1, (number, 8)).astype(np.float32)
    assert find_exchange(rows, [rows], [rows], np.arange(number) % 2, 2) is None


def test_rotations_exchange_classes_one_way_and_back_the_other() -> None:
    """Class 1 is class 0 rotated clockwise: rotating class 0 gives class 1, and rotating class 1 back gives class 0."""
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 2
    at = np.stack([np.eye(4)[label] for label in labels]) * 5

    def seen(steps: int) -> np.ndarray:
        return (np.roll(at, steps, axis=1) + rng.normal(0, 0.3, at.shape)).astype(np.float32)

    found = find_exchange(seen(0), [seen(-1), seen(1)], [seen(1), seen(-1)], labels, 2)
    assert found is not None and {found.first, found.second} == {0, 1}
    assert find_exchange(seen(0), [seen(2)], [seen(2)], labels, 2) is None


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_two_classes_that_are_hardly_told_apart_are_not_exchanged(strength: float) -> None:
    """Of images that are classified by chance, half seem to change class when mirrored."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = np.arange(160) % 2
        rows, moved = (rng.normal(0, 1, (160, 20)).astype(np.float32) for _ in range(2))
        rows[:, 0] += strength * labels
        moved[:, 0] += strength * labels
        found.append(find_exchange(rows, [moved], [moved], labels, 2))
    assert found == [None] * 20


def test_an_exchange_is_found_by_a_head_that_makes_mistakes() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    rows = rng.normal(0, 1, (160, 20)).astype(np.float32)
    rows[:, 0] += 2.0 * labels - 1
    moved = rows.copy()
    moved[:, 0] *= -1
    found = find_exchange(rows, [moved], [moved], labels, 2)
    assert found is not None and found.total < 75  # of 80
