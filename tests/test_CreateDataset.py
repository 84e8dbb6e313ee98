"""Splitting and batching: every image in one place, drawn from the seed alone, whatever the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from MLPipeline.CreateDataset import Batches, no_progress, one_hot, split_images, without
from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex


def index_of(*counts: int, splits: tuple[int, ...] = (UNSPLIT,)) -> ImageIndex:
    """Return an index of classes a, b, ... with so many images each, in every one of `splits`."""
    files = [
        (split, label, f"{split}/{chr(97 + label)}/{number}.jpg")
        for split in splits
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return ImageIndex(
        root=Path("Data"),
        classes=tuple(chr(97 + label) for label in range(len(counts))),
        labels=np.array([label for _, label, _ in files], np.int32),
        splits=np.array([split for split, _, _ in files], np.int8),
        skipped=(),
        _names="".join(name for _, _, name in files).encode(),
        _ends=np.cumsum([len(name) for _, _, name in files], dtype=np.int64),
    )


def counts_of(index: ImageIndex) -> list[list[int]]:
    """Return [train, val, test] images for each class."""
    number = len(index.classes)
    return np.stack(
        [np.bincount(index.labels[index.splits == s], minlength=number) for s in (TRAIN, VAL, TEST)], 1
    ).tolist()


def members(index: ImageIndex, split: int) -> set[str]:
    return {index.name(position) for position in index.positions(split).tolist()}


# ---- splitting --------------------------------------------------------------------------------------------


def test_each_class_is_split_in_the_same_proportions():
    assert counts_of(split_images(index_of(100, 20, 40), 0.15, 0.25, seed=0)) == [[60, 15, 25], [12, 3, 5], [24, 6, 10]]


def test_small_classes_keep_a_training_image_then_serve_test_then_val(caplog):
    assert counts_of(split_images(index_of(1, 2, 3, 4), 0.15, 0.15, seed=0)) == [
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, 1],
        [2, 1, 1],
    ]
    assert "class 'a' has a single image to split: used for training only" in caplog.text
    assert "class 'b'" not in caplog.text


def test_a_fraction_of_zero_takes_nothing(caplog):
    assert counts_of(split_images(index_of(1, 8), 0, 0, seed=0)) == [[1, 0, 0], [8, 0, 0]]
    assert counts_of(split_images(index_of(4, 8), 0.25, 0, seed=0)) == [[3, 1, 0], [6, 2, 0]]
    assert not caplog.text


@pytest.mark.parametrize("counts, split", [((1, 1), "test"), ((2, 2, 1), "val")])
def test_a_split_that_would_be_empty_is_refused_with_the_flag_to_say(counts, split):
    with pytest.raises(DataError, match=f"too few images to take any for {split}. Add images, or say --{split}-frac"):
        split_images(index_of(*counts), 0.15, 0.15, seed=0)


def test_missing_splits_are_carved_out_of_train_and_given_ones_stand(caplog):
    assert counts_of(split_images(index_of(20, 40, splits=(TRAIN,)), 0.1, 0.2, seed=0)) == [[14, 2, 4], [28, 4, 8]]
    assert "no images in a test folder: 20 % of train taken" in caplog.text
    assert "no images in a val folder: 10 % of train taken" in caplog.text
    caplog.clear()
    carved = split_images(index_of(20, 40, splits=(TRAIN, TEST)), 0.1, 0.2, seed=0)
    assert counts_of(carved) == [[18, 2, 20], [36, 4, 40]]
    assert "test" not in caplog.text
    whole = index_of(5, 1, splits=(TRAIN, VAL, TEST))
    assert np.array_equal(split_images(whole, 0.1, 0.2, seed=0).splits, whole.splits)


def test_the_seed_alone_decides():
    index = index_of(200, 200)
    first = split_images(index, 0.15, 0.15, seed=1)
    assert np.array_equal(first.splits, split_images(index, 0.15, 0.15, seed=1).splits)
    shared = [members(first, s) & members(split_images(index, 0.15, 0.15, seed=2**64 - 1), s) for s in (VAL, TEST)]
    assert all(len(both) < 20 for both in shared)  # of 60; 9 by chance
    assert not np.array_equal(first.splits[:200], first.splits[200:])  # nor are the classes split alike
    assert np.array_equal(index.splits, np.full(400, UNSPLIT))


def test_names_that_are_not_utf8_are_split_too():
    index = index_of(3, 3)
    odd = ImageIndex(index.root, index.classes, index.labels, index.splits, (), b"\xff" * 6, np.arange(1, 7))
    assert counts_of(split_images(odd, 0.15, 0.15, seed=0)) == [[1, 1, 1], [1, 1, 1]]


@given(
    counts=st.lists(st.integers(3, 60), min_size=1, max_size=4),
    val=st.floats(0.01, 0.4),
    test=st.floats(0.01, 0.4),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_image_is_in_one_split_and_classes_stay_within_one_of_their_share(counts, val, test, seed):
    index = split_images(index_of(*counts), val, test, seed)
    assert sum(len(index.positions(split)) for split in (TRAIN, VAL, TEST)) == sum(counts)
    for number, (in_train, in_val, in_test) in zip(counts, counts_of(index), strict=True):
        assert in_train >= 1
        assert abs(in_val - val * number) <= 1 and abs(in_test - test * number) <= 1


@given(counts=st.lists(st.integers(2, 20), min_size=1, max_size=3), seed=st.integers(0, 2**64 - 1))
def test_a_new_class_moves_no_image(counts, seed):
    before = split_images(index_of(3, *counts), 0.2, 0.2, seed)
    after = split_images(index_of(3, *counts, 9), 0.2, 0.2, seed)
    for split in (TRAIN, VAL, TEST):
        assert members(before, split) <= members(after, split)


def test_unreadable_images_leave_their_split():
    index = split_images(index_of(4, 4), 0.25, 0.25, seed=0)
    gone = [int(index.positions(VAL)[0]), int(index.positions(TRAIN)[0])]
    left = without(index, gone)
    assert left.splits[gone].tolist() == [UNSPLIT, UNSPLIT]
    assert len(left.positions(TRAIN)) == 3 and len(left.positions(VAL)) == 1 and len(left.positions(TEST)) == 2
    assert np.all(index.splits >= 0)


def test_a_class_that_loses_all_training_images_is_refused_by_name():
    index = split_images(index_of(1, 6), 0.2, 0.2, seed=0)
    with pytest.raises(DataError, match="class 'a' has no readable training image"):
        without(index, [0])


def test_where_there_is_no_training_at_all_unreadable_images_are_no_error():
    scored = index_of(2, 2, splits=(TEST,))
    assert without(scored, [0, 1]).splits.tolist() == [UNSPLIT, UNSPLIT, TEST, TEST]
    assert without(scored, []).splits.tolist() == [TEST] * 4


# ---- batches ----------------------------------------------------------------------------------------------


class PositionRows:
    """Rows that are their own positions (N, 1)."""

    row_bytes = 8

    def take(self, positions: np.ndarray) -> Tensor:
        return torch.from_numpy(positions)[:, None]


def batches_of(number: int, batch_size: int, seed: int | None = None) -> Batches:
    return Batches(PositionRows(), index_of(number, splits=(TRAIN,)), TRAIN, batch_size, seed)


def order(batches: Batches, epoch: int = 1) -> list[int]:
    return [position for inputs, _ in batches.epoch(epoch) for position in inputs[:, 0].tolist()]


@given(number=st.integers(0, 50), batch_size=st.integers(1, 60), seed=st.none() | st.integers(0, 2**64 - 1))
def test_an_epoch_holds_every_image_once_in_full_batches(number, batch_size, seed):
    batches = batches_of(number, batch_size, seed)
    sizes = [len(inputs) for inputs, _ in batches.epoch(3)]
    assert sorted(order(batches, 3)) == list(range(number))
    assert len(batches) == len(batches.epoch(3)) == len(sizes)
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and number > 1:
        assert 1 < sizes[-1] <= batch_size + 1


@pytest.mark.parametrize("number, batch_size, sizes", [
    (9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 2, [3]), (2, 1, [1, 1]),
    (1, 8, [1]), (3, 8, [3]), (0, 8, []),
])  # fmt: skip
def test_a_last_batch_of_one_joins_the_one_before(number, batch_size, sizes):
    assert [len(inputs) for inputs, _ in batches_of(number, batch_size)] == sizes


def test_the_order_depends_on_seed_and_epoch_alone():
    drawn = order(batches_of(50, 8, seed=5), epoch=2)
    np.random.seed(1)
    torch.manual_seed(1)
    again = batches_of(50, 8, seed=5)
    order(again, epoch=1)
    assert order(again, epoch=2) == drawn
    assert order(batches_of(50, 7, seed=5), epoch=2) == drawn
    others = [order(batches_of(50, 8, seed=5), epoch=3), order(batches_of(50, 8, seed=6), epoch=2), sorted(drawn)]
    assert all(other != drawn for other in others)
    assert order(batches_of(50, 8), epoch=2) == list(range(50))


def test_labels_are_one_hot_and_follow_the_images():
    index = split_images(index_of(7, 5, 6), 0.2, 0.2, seed=0)
    for inputs, targets in Batches(PositionRows(), index, VAL, 2, seed=0):
        assert (targets.dtype, targets.shape) == (torch.float32, (len(inputs), 3))
        assert targets.sum(1).tolist() == [1.0] * len(inputs)
        assert targets.argmax(1).tolist() == index.labels[inputs[:, 0].numpy()].tolist()
        assert np.all(index.splits[inputs[:, 0].numpy()] == VAL)
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert list(no_progress([1, 2], "label", 2)) == [1, 2]
