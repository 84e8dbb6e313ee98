"""The stored row of each image: found or computed by `KnownRows`, read by training from `CachedRows` or `FileRows`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from MLPipeline.CreateDataset import Reading, read_images
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.files.Cache import RowStore
from MLPipeline.images.ImageWalk import Skipped, count_reasons
from MLPipeline.images.ScanFolders import ImageIndex
from MLPipeline.images.SplitImages import without

Found = list[tuple[int, Reading]]  # images by position


@dataclass(frozen=True)
class CachedRows:
    """Stored rows of the images of an index: `take` returns them as the trainable part of the model reads them."""

    stored: np.ndarray  # (M, ...) memory-mapped
    numbers: np.ndarray  # (N, 1 + K) int64: the row of each image, then of its K views; -1: none
    are_pixels: bool

    @property
    def row_bytes(self) -> int:
        """Size of one row as stored."""
        return int(np.prod(self.stored.shape[1:])) * self.stored.itemsize

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return images (B, 3, H, W) uint8 or features (B, ...) float32; with views, those of `epoch` (1, 2, ...)."""
        num_views = self.numbers.shape[1] - 1
        view = 1 + (epoch - 1) % num_views if num_views and epoch else 0
        rows = torch.from_numpy(self.stored[self.numbers[positions, view]])
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: the layout convolutions are fastest in.
        return rows.permute(0, 3, 1, 2) if self.are_pixels else rows.float()


@dataclass(frozen=True)
class FileRows:
    """The images of an index, decoded each time they are read."""

    index: ImageIndex
    image_size: int
    workers: int
    are_pixels: bool = True
    preprocessing: Preprocessing = PLAIN

    @property
    def row_bytes(self) -> int:
        """Size of one decoded image."""
        return 3 * self.image_size**2

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return images (B, 3, H, W) uint8.

        Raises:
            DataError: a file that could be read before cannot be read any more.
        """
        pictures = np.empty((len(positions), self.image_size, self.image_size, 3), np.uint8)
        paths = [self.index.path(position) for position in positions.tolist()]
        readings = read_images(paths, self.image_size, self.workers, preprocessing=self.preprocessing)
        for picture, reading in zip(pictures, readings, strict=True):
            if reading.pixels is None:
                raise DataError(
                    f"{reading.path}: {reading.reason}, but could be read before", "Restore it, then --resume"
                )
            picture[:] = reading.pixels
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)


class KnownRows:
    """Where the rows of each image are in a store: found there, or computed by some rank and written by rank 0."""

    def __init__(self, index: ImageIndex, num_views: int) -> None:
        self.index = index
        self.numbers = np.full((len(index), 1 + num_views), -1, np.int64)
        self.unreadable: dict[int, str] = {}  # position -> reason
        self.computed: list[tuple[list[int], list[bytes], np.ndarray]] = []  # positions, keys, rows not yet written
        self.num_computed = 0

    def usable(self, number: int) -> ImageIndex:
        """Return the index without the images (of `number` in all) that turned out to be unreadable."""
        unreadable = tuple(Skipped(self.index.name(position), why) for position, why in self.unreadable.items())
        if len(unreadable) == number:
            raise DataError(f"{self.index.root}: none of {number} images can be read", count_reasons(unreadable))
        readable = without(self.index, list(self.unreadable))
        return replace(readable, skipped=(*self.index.skipped, *unreadable))

    def readable(self, positions: np.ndarray) -> np.ndarray:
        """Return those of `positions` whose files could be read."""
        return positions[self.numbers[positions, 0] >= 0]

    def recall(
        self, positions: np.ndarray, contents: np.ndarray, view: int, find: Callable[[bytes], int | None]
    ) -> np.ndarray:
        """Find the rows of files whose content is known; return the positions of the others."""
        for position in map(int, positions):
            number = find(contents[position].tobytes())
            self.numbers[position, view] = -1 if number is None else number
        return positions[self.numbers[positions, view] < 0]

    def to_compute(
        self, readings: Iterable[tuple[int, Reading]], batch_size: int, view: int
    ) -> Iterator[tuple[Found, np.ndarray]]:
        """Yield the images that have no row yet, with their pixels (B, H, W, 3); record all others."""
        missing: Found = []
        for position, reading in readings:
            if reading.reason:
                self.unreadable[position] = reading.reason
            elif reading.row is not None:
                self.numbers[position, view] = reading.row
            else:
                missing.append((position, reading))
            if len(missing) == batch_size:
                yield missing, _pixels(missing)
                missing = []
        if missing:
            yield missing, _pixels(missing)

    def hand_over(self, store: RowStore, view: int) -> None:
        """Have rank 0 write what all ranks have computed."""
        for positions, keys, rows in itertools.chain.from_iterable(ranks.to_first(self.computed)):
            self.numbers[positions, view] = store.append(keys, rows)
            self.num_computed += len(positions)
        self.computed.clear()

    def share(self, store: RowStore, view: int) -> None:
        """Write what is left, and receive what the other ranks have found."""
        self.hand_over(store, view)
        store.publish()
        ranks.share_numbers(self.numbers)
        unreadable = dict(itertools.chain.from_iterable(each.items() for each in ranks.gather(self.unreadable)))
        self.unreadable = dict(sorted(unreadable.items()))
        self.num_computed = ranks.from_first(self.num_computed)


def _pixels(images: Found) -> np.ndarray:
    return np.stack([reading.pixels for _, reading in images if reading.pixels is not None])
