"""Pairs of hashes that differ in few bits: all that a search of all pairs finds, the closest first, in any block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from MLPipeline.images import Candidates
from MLPipeline.images.Candidates import find_candidates


def test_where_all_look_alike_the_work_is_bounded():
    hashes = np.random.default_rng(0).integers(0, 4, (300, 2), dtype=np.uint64)  # all within 4 bits
    first, second = find_candidates(hashes)
    assert len(first) == 300 * Candidates.MAX_CANDIDATES > Candidates.MIN_CANDIDATES and np.all(first < second)
    assert (
        max(sum(int(each).bit_count() for each in pair) for pair in hashes[first] ^ hashes[second]) == 1
    )  # the closest


def test_candidates_are_those_that_a_search_of_all_pairs_finds():
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**63, (400, 2), dtype=np.uint64)
    flips = (generator.random((200, 2, 64)) < 0.06) @ (1 << np.arange(64, dtype=np.uint64))
    hashes[200:] = hashes[:200] ^ flips
    near = {
        (one, other)
        for one, other in itertools.combinations(range(400), 2)
        if sum(int(each).bit_count() for each in hashes[one] ^ hashes[other]) <= Candidates.MAX_DISTANCE
    }
    found = set(zip(*(each.tolist() for each in find_candidates(hashes)), strict=True))
    assert found <= near and len(found) >= 0.99 * len(near) >= 190


@pytest.mark.parametrize("number", [0, 1, 2, 7, 9])
def test_few_hashes_are_no_trouble(number):
    first, second = find_candidates(np.zeros((number, 2), np.uint64))
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == set(itertools.combinations(range(number), 2))


def test_blocks_change_nothing(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**20, (331, 2), dtype=np.uint64)
    whole = find_candidates(hashes)
    assert len(whole[0]) > 331
    for size in (8, 64, 328, 336):
        monkeypatch.setattr(Candidates, "_AT_ONCE", size)
        assert all(np.array_equal(one, other) for one, other in zip(find_candidates(hashes), whole, strict=True))
