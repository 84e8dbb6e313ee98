"""Uses the pixels that are decoded while files are inspected, so that no file is decoded twice.

The rows for training are computed from them on the way; or they are kept, where the network that computes the rows
depends on what the inspection finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.files.Cache import RowStore, has_room
from MLPipeline.images.Inspect import Finding

if TYPE_CHECKING:  # loads torch, which an audit needs only where files have changed
    from MLPipeline.frozen.FrozenStages import FrozenStages

_MOST_AT_ONCE = 4096  # findings without pixels that wait for one with pixels

Group = tuple[list[Finding], list[Finding]]  # findings in order, and those among them that need a row


class PixelKeeper:
    """Keeps decoded pixels in memory: `pixels` (S, S, 3) uint8 by the digest of the file.

    Args:
        image_size: side of the decoded squares, in pixels.
        fit: how pictures are made square; see `Fit`.
        limit_bytes: of all pixels; those of later images are not kept.
    """

    def __init__(self, image_size: int, fit: str, limit_bytes: int) -> None:
        self.image_size, self.fit = image_size, fit
        self.pixels: dict[bytes, np.ndarray] = {}
        self._left = limit_bytes

    def keep(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Yield the findings as they come; their pixels are kept."""
        for finding in findings:
            pixels = finding.pixels
            if pixels is not None and pixels.nbytes <= self._left and finding.content not in self.pixels:
                self.pixels[finding.content] = pixels
                self._left -= pixels.nbytes
            yield finding


class RowKeeper:
    """Stores a row of each image found, where `extract` will look for it.

    Args:
        image_size: side of the decoded squares, in pixels.
        frozen_stages: returns what computes the rows, or None for no rows; called for the first image, so that nothing
            is loaded where there is none.
        cache: the folder of the stores.
        num_images: how many there may be in all; where the cache has no room for so many rows, none is stored.
        cache_limit: GB that the cache may take.
        fit: how pictures are made square; see `Fit`.
    """

    def __init__(
        self,
        image_size: int,
        frozen_stages: Callable[[], FrozenStages | None],
        cache: Path,
        num_images: int,
        cache_limit: float | None = np.inf,
        fit: str = STRETCH,
    ) -> None:
        self.image_size, self.cache, self.fit = image_size, cache, fit
        self._frozen_stages, self._num_images, self._cache_limit = frozen_stages, num_images, cache_limit

    def keep(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Yield the findings as they come; rows are computed from their pixels on the way.

        Raises:
            ResourceError: the disk is full or the cache cannot be written.
        """
        first = next(findings, None)
        if first is None:
            return
        findings, stages = chain([first], findings), self._frozen_stages()
        if stages is None:
            yield from findings
            return
        store = stages.store(self.cache)
        if not has_room(self.cache, store, self._num_images, self._cache_limit):
            yield from findings
            return
        with store.writing():
            for (group, wanted), rows in stages.stream(self._groups(findings, store, stages.batch_size)):
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
        """Return (B, H, W, 3) uint8; one black image where there is none, since a network needs at least one."""
        pixels = [finding.pixels for finding in wanted if finding.pixels is not None]
        return np.stack(pixels or [np.zeros((self.image_size, self.image_size, 3), np.uint8)])
