"""Makes the rows for training while files are inspected, from what that has decoded: no file is read a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MLPipeline.files.Cache import RowStore, has_room
from MLPipeline.images.Fit import STRETCH
from MLPipeline.images.Inspect import Finding

if TYPE_CHECKING:  # which loads torch: an audit where nothing changed does without
    from MLPipeline.frozen.FrozenStages import FrozenStages

_MOST_AT_ONCE = 4096  # findings without a picture that wait for one with

Group = tuple[list[Finding], list[Finding]]  # findings in order, and those among them of which a row is to be made


class RowKeeper:
    """Keeps a row of each picture found, where `extract` will look for it.

    Args:
        image_size: side of the decoded squares.
        computation: gives what makes the rows, or None for no rows; called for the first picture, so that nothing is
            loaded where there is none.
        cache: the folder of the stores.
        num_images: how many there may be in all: where the cache has no room for so many rows, none is made.
        cache_limit: GB that the cache may take.
        fit: how pictures are made square; see `Fit`.
    """

    def __init__(
        self,
        image_size: int,
        computation: Callable[[], FrozenStages | None],
        cache: Path,
        num_images: int,
        cache_limit: float = np.inf,
        fit: str = STRETCH,
    ) -> None:
        self.image_size, self.cache, self.fit = image_size, cache, fit
        self._computation, self._num_images, self._cache_limit = computation, num_images, cache_limit

    def keep(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Yield the findings as they come; of their pixels, rows are made on the way.

        Raises:
            ResourceError: the disk is full or the cache cannot be written.
        """
        first = next(findings, None)
        if first is None:
            return
        findings, compute = chain([first], findings), self._computation()
        if compute is None:
            yield from findings
            return
        store = compute.store(self.cache)
        if not has_room(self.cache, store, self._num_images, self._cache_limit):
            yield from findings
            return
        with store.writing():
            for (group, wanted), rows in compute.stream(self._groups(findings, store, compute.batch_size)):
                if wanted:
                    store.append([finding.content for finding in wanted], rows[: len(wanted)])
                yield from group

    def _groups(self, findings: Iterator[Finding], store: RowStore, size: int) -> Iterator[tuple[Group, np.ndarray]]:
        group, wanted = [], []
        for finding in findings:
            group.append(finding)
            if finding.pixels is not None and store.find(finding.content) is None:
                wanted.append(finding)
            if len(wanted) == size or len(group) == _MOST_AT_ONCE:
                yield (group, wanted), self._pixels(wanted)
                group, wanted = [], []
        if group:
            yield (group, wanted), self._pixels(wanted)

    def _pixels(self, wanted: list[Finding]) -> np.ndarray:
        """Return (B, H, W, 3) uint8; a black picture where there is none, for there is no computing with nothing."""
        pixels = [finding.pixels for finding in wanted if finding.pixels is not None]
        return np.stack(pixels or [np.zeros((self.image_size, self.image_size, 3), np.uint8)])
