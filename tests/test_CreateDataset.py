"""Batching: every image once an epoch, in an order drawn from the seed alone, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from MLPipeline.CreateDataset import Batches, one_hot
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.images.ReadAhead import no_progress
from MLPipeline.images.ScanFolders import TRAIN, VAL
from MLPipeline.images.SplitImages import split_images
from tests.support.split_cases import index_of


class PositionRows:
    """Rows that are their own positions (N, 1)."""

    row_bytes = 8

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
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


@pytest.mark.parametrize("size", [2, 3])
def test_a_rank_keeps_its_share_of_an_epoch_and_no_more(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, shares = batches_of(52, 7, seed=5), []
    whole = np.split(batches.order(2), range(7, 52, 7))
    monkeypatch.setattr(ranks, "size", size)
    for rank in range(size):
        monkeypatch.setattr(ranks, "rank", rank)
        epoch = batches.epoch(2)
        shares.append(np.split(epoch.places, np.cumsum([len(inputs) for inputs, _ in epoch])[:-1]))
        assert epoch.inner.base is None and epoch.inner.itemsize == 4  # a copy, of 4 bytes per image
    together = [np.concatenate(parts).tolist() for parts in zip(*shares, strict=True)]
    assert together == [batch.tolist() for batch in whole]


def test_labels_are_one_hot_and_follow_the_images():
    index = split_images(index_of(7, 5, 6), 0.2, 0.2, seed=0)
    for inputs, targets in Batches(PositionRows(), index, VAL, 2, seed=0):
        assert (targets.dtype, targets.shape) == (torch.float32, (len(inputs), 3))
        assert targets.sum(1).tolist() == [1.0] * len(inputs)
        assert targets.argmax(1).tolist() == index.labels[inputs[:, 0].numpy()].tolist()
        assert np.all(index.splits[inputs[:, 0].numpy()] == VAL)
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert list(no_progress([1, 2], "label", 2)) == [1, 2]
