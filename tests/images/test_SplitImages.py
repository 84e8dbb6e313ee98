"""Splitting: every image in one place, drawn from the seed alone; groups stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex
from MLPipeline.images.SplitImages import evenly, only, split_images, without
from tests.support.split_cases import counts_of, index_of, members, sides_of


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
def test_a_split_that_would_be_empty_is_refused_with_the_cause_and_the_flag(counts, split):
    cause = f"all {len(counts)} classes have fewer than 3 images, and each split takes at least one"
    hint = f"Add images to the classes, or use --{split}-fraction 0"
    with pytest.raises(DataError, match=f"too few images to take any for {split}: {cause}. {hint}"):
        split_images(index_of(*counts), 0.15, 0.15, seed=0)


def test_many_classes_of_one_image_are_one_note(caplog):
    split_images(index_of(*[1] * 2000, 8), 0.15, 0.15, seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        "2,000 classes, such as 'a', have a single image to split: used for training only"
    ]


def test_a_split_that_is_empty_because_of_groups_names_them():
    cause = "too few images to take any for test: 12 images form only 2 groups of near-duplicates, of --group"
    with pytest.raises(DataError, match=cause) as caught:
        split_images(index_of(6, 6), 0.15, 0.15, seed=0, groups=np.repeat([0, 6], 6))
    assert "Run `audit` to see the near-duplicates" in str(caught.value)


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


# ---- groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 7])
def test_groups_stay_on_one_side_and_classes_near_their_share(size):
    index = index_of(210, 420)
    groups = np.arange(630) // size * size  # with 7 a group never spans both classes; with 2 and 3 neither
    split = split_images(index, 0.15, 0.15, seed=0, groups=groups)
    assert all(len(sides) == 1 for sides in sides_of(split, groups))
    for number, (_, in_val, in_test) in zip((210, 420), counts_of(split), strict=True):
        assert abs(in_val - 0.15 * number) <= size / 2 + 0.5 and abs(in_test - 0.15 * number) <= size / 2 + 0.5


def test_groups_across_classes_are_dealt_once_for_all_their_classes():
    index = index_of(200, 200)
    groups = np.arange(400) % 200 // 2  # four images each, two of either class
    split = split_images(index, 0.15, 0.15, seed=0, groups=groups)
    assert all(len(sides) == 1 for sides in sides_of(split, groups))
    assert counts_of(split) == [[140, 30, 30], [140, 30, 30]]


def test_a_few_pairs_among_single_images_cost_no_proportions():
    index = index_of(100, 100)
    groups = np.arange(200)
    groups[1:40:2] -= 1
    split = split_images(index, 0.15, 0.15, seed=0, groups=groups)
    assert counts_of(split) == [[70, 15, 15], [70, 15, 15]]
    paired = np.isin(groups, groups[1:40:2])
    assert 0 < paired[split.splits == TEST].mean() < 0.5  # pairs go neither first nor last


def test_of_few_large_groups_every_split_still_gets_one():
    groups = np.concatenate([np.repeat([0, 20, 45], [20, 25, 15]), np.arange(60, 69)])
    split = split_images(index_of(60, 9), 0.15, 0.15, 0, groups)
    assert counts_of(split) == [[25, 20, 15], [7, 1, 1]] and all(len(sides) == 1 for sides in sides_of(split, groups))


def test_a_class_of_one_group_trains():
    split = split_images(index_of(12, 20), 0.2, 0.2, 0, np.concatenate([np.zeros(12, int), np.arange(12, 32)]))
    assert counts_of(split)[0] == [12, 0, 0]


def test_images_of_no_group_are_in_no_split():
    groups = np.arange(40)
    groups[[3, 25]] = -1
    split = split_images(index_of(20, 20), 0.2, 0.2, 0, groups)
    assert split.splits[[3, 25]].tolist() == [UNSPLIT, UNSPLIT] and np.all(np.delete(split.splits, [3, 25]) >= 0)
    groups[:20] = -1
    with pytest.raises(DataError, match="class 'a' has no readable training image"):
        split_images(index_of(20, 20), 0.2, 0.2, 0, groups)


def test_given_folders_stand_whatever_the_groups():
    index = index_of(10, 10, splits=(TRAIN, VAL, TEST))
    assert np.array_equal(split_images(index, 0.2, 0.2, 0, np.arange(60) % 20).splits, index.splits)


def test_positions_are_spread_over_the_whole() -> None:
    assert evenly(10, 4).tolist() == [0, 3, 6, 9] and evenly(3, 8).tolist() == [0, 1, 2]
    assert evenly(7, 1).tolist() == [0] and evenly(7, 0).tolist() == evenly(0, 7).tolist() == []


def test_only_the_chosen_images_stay_in_a_split() -> None:
    index = split_images(index_of(8, 8), 0.25, 0.25, 0)
    chosen = np.array([3, 12])
    own, all_in_val = only(index, chosen), only(index, chosen, VAL)
    assert (
        own.splits[chosen].tolist() == index.splits[chosen].tolist() and all_in_val.splits[chosen].tolist() == [VAL] * 2
    )
    assert (np.delete(own.splits, chosen) == UNSPLIT).all() and (np.delete(all_in_val.splits, chosen) == UNSPLIT).all()
