"""The nearest rows are those that all cosines, computed one by one, say; whatever the size of the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.Errors import DataError
from MLPipeline.similarity import Nearest
from MLPipeline.similarity.Nearest import find_nearest


def rows_of(number: int, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.mark.parametrize("block_bytes", [1, 12 * 4 * 7, 2**21])
@pytest.mark.parametrize("num_nearest", [1, 5, 100, 1000])
def test_they_are_those_with_the_highest_cosine(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, num_nearest: int
) -> None:
    monkeypatch.setattr(Nearest, "_BLOCK_BYTES", block_bytes)
    rows, queries = 3 * rows_of(100), rows_of(3, seed=1)
    found = find_nearest(lambda start, stop: rows[start:stop], 100, queries, num_nearest)
    number = min(100, num_nearest)
    assert found.positions.shape == found.cosines.shape == (3, number)
    for query, positions, cosines in zip(queries, found.positions, found.cosines, strict=True):
        expected = np.array([cosine(query, row) for row in rows])
        order = np.argsort(-expected)[:number]
        assert positions.tolist() == order.tolist()
        np.testing.assert_allclose(cosines, expected[order], atol=1e-6)


def test_each_row_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nearest, "_BLOCK_BYTES", 12 * 4 * 7)
    rows, read = rows_of(100), []

    def block(start: int, stop: int) -> np.ndarray:
        read.append(range(start, stop))
        return rows[start:stop]

    find_nearest(block, 100, rows[:1], 3)
    assert sorted(place for part in read for place in part) == list(range(100))
    assert max(map(len, read)) == 7


def test_features_of_length_zero_are_similar_to_none() -> None:
    rows = np.stack([np.zeros(12, np.float32), rows_of(1)[0]])
    found = find_nearest(lambda start, stop: rows[start:stop], 2, rows[1:], 2)
    assert found.positions.tolist() == [[1, 0]] and found.cosines[0].tolist() == pytest.approx([1, 0])


def test_large_numbers_do_not_overflow_and_nan_is_refused() -> None:
    rows = rows_of(3)
    rows[1] = 60_000
    found = find_nearest(lambda start, stop: rows[start:stop], 3, rows[1:2], 1)
    assert found.positions.tolist() == [[1]]
    rows[2, 5] = np.nan
    with pytest.raises(DataError, match="not finite numbers"):
        find_nearest(lambda start, stop: rows[start:stop], 3, rows[:1], 1)
