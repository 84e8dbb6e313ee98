"""Computes the features of photographs in the background, in the cache where a training finds them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from MLPipeline.CreateDataset import Reading, read_images
from MLPipeline.decoding.Preprocessing import UNTRAINED
from MLPipeline.files.Cache import RowStore
from MLPipeline.frozen.FrozenStages import FrozenStages

Batch = tuple[list[tuple[int, bytes]], np.ndarray]  # numbers and keys, pixels (B, H, W, 3)
OnRows = Callable[[Sequence[int], np.ndarray], None]
OnUnreadable = Callable[[int, str], None]


class FeatureFeed:
    """Passes on the features of photographs as they become known: from the cache, or computed and stored there.

    Args:
        stages: what computes the features.
        cache: the folder of the stores.
        workers: the number of threads that decode.
        on_rows: receives the numbers of some photographs and their features (B, D).
        on_unreadable: receives the number of a photograph that cannot be read, and the reason.
    """

    def __init__(
        self, stages: FrozenStages, cache: Path, workers: int, on_rows: OnRows, on_unreadable: OnUnreadable
    ) -> None:
        self._stages, self._store, self._workers = stages, stages.store(cache), workers
        self._on_rows, self._on_unreadable = on_rows, on_unreadable
        self._is_stopped = threading.Event()

    def compute(self, numbers: Sequence[int], paths: Sequence[Path]) -> None:
        """Pass on the features of the photographs `numbers` at `paths`, in this order as far as possible.

        Raises:
            ResourceError: the cache cannot be written.
        """
        with self._store.writing() as store:
            size, workers = self._stages.image_size, self._workers
            readings = zip(numbers, read_images(paths, size, workers, store.find, UNTRAINED), strict=True)
            for found, rows in self._stages.stream(self._unknown(store, readings)):
                store.append([key for _, key in found], rows)
                self._on_rows([number for number, _ in found], rows)

    def stop(self) -> None:
        """End `compute`, in another thread, after the current batch."""
        self._is_stopped.set()

    def _unknown(self, store: RowStore, readings: Iterator[tuple[int, Reading]]) -> Iterator[Batch]:
        """Yield the photographs without a stored row in batches; pass on the rows of the others."""
        stored = store.rows()
        found: list[tuple[int, bytes]] = []
        pixels: list[np.ndarray] = []
        for number, reading in readings:
            if self._is_stopped.is_set():
                return
            if reading.row is not None:
                stored = store.rows() if reading.row >= len(stored) else stored  # a copy of one computed just now
                self._on_rows([number], stored[reading.row : reading.row + 1])
            elif reading.pixels is None:
                self._on_unreadable(number, reading.reason)
            else:
                found.append((number, reading.key))
                pixels.append(reading.pixels)
            if len(found) == self._stages.batch_size:
                yield found, np.stack(pixels)
                found, pixels = [], []
        if found:
            yield found, np.stack(pixels)
