"""The features of photographs, as they become known; safe to use from several threads."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np


class FeatureTable:
    """Rows of features: those to learn from in the order in which they came, those of the random sample beside them.

    Args:
        capacity: the largest number of rows to learn from.
        sample: the photographs of the random sample, which are not learned from unless `learn_from` says so.
    """

    def __init__(self, capacity: int, sample: Collection[int]) -> None:
        self._lock = threading.Lock()
        self._capacity, self._sample = capacity, sample
        self._rows = np.empty((0, 0), np.float32)
        self._numbers: list[int] = []  # the photograph of each row
        self._row_of: dict[int, int] = {}
        self._of_sample: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._numbers) + len(self._of_sample)

    def add(self, numbers: Sequence[int], rows: np.ndarray) -> None:
        """Add the features (B, D) of photographs; those of a photograph that has changed replace the old ones."""
        with self._lock:
            for number, row in zip(numbers, rows.astype(np.float32), strict=True):
                if number in self._sample and number not in self._row_of:
                    self._of_sample[number] = row
                else:
                    self._put(number, row)

    def is_of_sample(self, number: int) -> bool:
        """Return whether a photograph is of the random sample."""
        return number in self._sample

    def learn_from(self, number: int) -> None:
        """Count a photograph of the random sample among those to learn from, from now on."""
        with self._lock:
            if (row := self._of_sample.pop(number, None)) is not None:
                self._put(number, row)
            self._sample = set(self._sample) - {number}

    def to_learn_from(self) -> tuple[list[int], np.ndarray]:
        """Return the photographs to learn from (N) and their features (N, D): those of the last call, then new ones."""
        with self._lock:
            return self._numbers.copy(), self._rows[: len(self._numbers)]

    def of_sample(self, numbers: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Return those of `numbers` that are in the random sample and have features, and these (S, D)."""
        with self._lock:
            found = [number for number in numbers if number in self._of_sample]
            rows = [self._of_sample[number] for number in found]
            return found, np.stack(rows) if rows else np.empty((0, self._rows.shape[1]), np.float32)

    def row(self, number: int) -> np.ndarray | None:
        """Return the features (D,) of a photograph, or None if they are not known yet."""
        with self._lock:
            row = self._row_of.get(number)
            return self._of_sample.get(number) if row is None else self._rows[row]

    def _put(self, number: int, row: np.ndarray) -> None:
        if not len(self._rows):
            self._rows = np.empty((self._capacity, len(row)), np.float32)
        if number not in self._row_of:
            self._row_of[number] = len(self._numbers)
            self._numbers.append(number)
        self._rows[self._row_of[number]] = row
