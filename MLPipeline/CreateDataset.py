"""Split index -> batches: RGB uint8 images (B, 3, H, W) with one-hot float32 labels (B, C).

    for reading in read_images(paths, image_size=200, workers=2): ...
    for images, one_hot in Batches(rows, index, TRAIN, batch_size=8, seed=0).epoch(1): ...

Images are decoded by OpenCV in threads (it releases the interpreter lock), so there are no worker processes to hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.decoding.ReadImage import UnreadableImage, read_bytes
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.images.ReadAhead import read_ahead
from MLPipeline.images.ScanFolders import ImageIndex

NOTHING_DECODED: Mapping[bytes, np.ndarray] = MappingProxyType({})
_FETCH_BYTES = 2**23  # rows taken from the store at once


@dataclass(frozen=True)
class Reading:
    """The result of reading one image file: `row` if a store has it, `pixels` if it was decoded, else `reason`."""

    path: Path
    key: bytes = b""
    row: int | None = None
    pixels: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    reason: str = ""  # why it is skipped
    note: str = ""  # a remark on a file that is used


def read_images(
    paths: Iterable[Path],
    image_size: int,
    workers: int,
    find: Callable[[bytes], int | None] = lambda key: None,
    preprocessing: Preprocessing = PLAIN,
    keys: Iterable[bytes] | None = None,
    decoded: Mapping[bytes, np.ndarray] = NOTHING_DECODED,
) -> Iterator[Reading]:
    """Yield one `Reading` per path, in order, decoded ahead by `workers` threads to squares of `image_size` pixels.

    `find` maps the key of a file (see `Preprocessing.key`) to its row in a store; a file with a row is not decoded.
    Of which `keys` are known and the pixels `decoded` already, by key, are not even read.
    """

    def read(file: tuple[Path, bytes | None]) -> Reading:
        path, known = file
        if known is not None and (pixels := decoded.get(known)) is not None:
            row = find(known)
            return Reading(path, known, row=row, pixels=pixels if row is None else None)
        try:
            data = read_bytes(path)
            key = preprocessing.key(data)
            if (row := find(key)) is not None:
                return Reading(path, key, row=row)
            picture = preprocessing.decode(data, image_size)
            if picture.stored is not None:
                key = preprocessing.key(data, is_deep=True)  # which the header need not have said
        except UnreadableImage as error:
            return Reading(path, reason=error.reason)
        return Reading(path, key, pixels=picture.pixels, note=picture.note)

    files = zip(paths, repeat(None)) if keys is None else zip(paths, keys, strict=True)
    yield from read_ahead(read, files, workers)


class Rows(Protocol):
    """One row per image of an index: pixels, features, or the activations between."""

    @property
    def row_bytes(self) -> int:
        """Size of one row in memory."""

    def take(self, positions: np.ndarray, epoch: int) -> Tensor:
        """Return the rows (B, ...) of these positions; with views, those of `epoch` (0: the images themselves)."""


class Augment(Protocol):
    """Augments a training batch; the draw for each image depends on (seed, epoch, position) alone."""

    def __call__(
        self, images: Tensor, targets: Tensor, seed: int, epoch: int, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) uint8 and targets (B, C) float32, whose rows sum to 1."""


class Batches:
    """The batches of one split, `(inputs (B, ...), one_hot (B, C) float32)`, in an order drawn from (seed, epoch).

    Each rank gets its share of every batch, which may be empty. A last batch of one image is merged into the batch
    before it, since BatchNorm cannot train on a single value per channel. With `balanced`, an epoch draws as many
    images as the split has, from every class equally often.
    """

    def __init__(
        self,
        rows: Rows,
        index: ImageIndex,
        split: int,
        batch_size: int,
        seed: int | None = None,
        augment: Augment | None = None,
        balanced: bool = False,
    ) -> None:
        self.rows = rows
        # 4 bytes per image and rank; what else is known of an image stays in the index, which ranks share.
        self.positions = index.positions(split).astype(_integers(len(index)))  # (N,) of the images of the split
        self._all_labels = index.labels
        self.num_classes = len(index.classes)
        self.batch_size = batch_size
        self.seed = seed  # None: in the order of the index
        self.augment = augment
        self.balanced = balanced

    def __len__(self) -> int:
        number = len(self.positions)
        return max(1, -(-number // self.batch_size) - (number % self.batch_size == 1)) if number else 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.epoch(0))

    @property
    def labels(self) -> Tensor:
        """The labels (N,) int64 of the images of the split."""
        return self.labels_at(slice(None))

    def labels_at(self, places: np.ndarray | slice) -> Tensor:
        """Return the labels (B,) int64 of the images at `places` in the split."""
        return torch.from_numpy(self._all_labels[self.positions[places]].astype(np.int64))

    @property
    def sizes(self) -> list[int]:
        """The number of images in each batch, over all ranks."""
        inner = [self.batch_size] * (len(self) - 1)
        return [*inner, len(self.positions) - sum(inner)] if len(self) else []

    def epoch(self, epoch: int, first_batch: int = 0) -> Epoch:
        """Return the batches of one epoch, from `first_batch` on: every image of the split once, unless `balanced`."""
        order, num_inner = self.order(epoch), max(0, len(self) - 1)
        inner, last = np.split(order, [num_inner * self.batch_size])
        inner, last = self._share(inner.reshape(num_inner, self.batch_size)), self._share(last[None])[0]
        return Epoch(self, inner, last, epoch, first_batch)

    def order(self, epoch: int) -> np.ndarray:
        """Return the places in the split (N,), in the order of one epoch."""
        order = np.arange(len(self.positions), dtype=self.positions.dtype)
        if self.seed is not None:
            draw = np.random.default_rng([self.seed, epoch])
            if self.balanced:
                chances = drawing_chances(self.labels, self.num_classes).numpy()
                order = draw.choice(order, len(order), p=chances)
            else:
                draw.shuffle(order)
        return order

    def _share(self, batches: np.ndarray) -> np.ndarray:
        """Return this rank's columns of `batches` (num_batches, B); a copy, so that the rest is not kept."""
        mine = ranks.mine(batches.shape[1])
        if mine.start == mine.stop:
            return batches[:, :0].copy()
        return batches.take(range(mine.start - self.num_lent, mine.stop), axis=1, mode="wrap")

    @property
    def num_lent(self) -> int:
        """How many images of the previous rank are included: mixup mixes an image with the one before it."""
        return int(ranks.size > 1 and self.augment is not None)


@dataclass(frozen=True)
class Epoch:
    """One pass over a split; has a length, so that a progress bar can show the time left."""

    batches: Batches
    inner: np.ndarray  # (num_batches - 1, B): places in the split of this rank's images in each batch but the last
    last: np.ndarray  # (B,): those of the last batch
    epoch: int
    first_batch: int = 0

    def __len__(self) -> int:
        return len(self.batches) - self.first_batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        of = self.batches
        # Rows are fetched for many batches at once: one batch at a time, fetching takes as long as training a head.
        at_once = max(1, _FETCH_BYTES // (of.rows.row_bytes * of.batch_size))
        for first in range(self.first_batch, len(of), at_once):
            fetched = [self._places(number) for number in range(first, min(first + at_once, len(of)))]
            chosen, sizes = np.concatenate(fetched), [len(share) for share in fetched]
            positions = of.positions[chosen].astype(np.int64)
            inputs, targets = of.rows.take(positions, self.epoch), one_hot(of.labels_at(chosen), of.num_classes)
            batches = zip(inputs.split(sizes), targets.split(sizes), strict=True)
            yield from self._augmented(batches, torch.from_numpy(positions).split(sizes))

    def _augmented(
        self, batches: Iterable[tuple[Tensor, Tensor]], positions: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        augment, seed = self.batches.augment, self.batches.seed or 0
        if augment is None:
            yield from batches
            return
        for (images, targets), indices in zip(batches, positions, strict=True):
            images, targets = augment(images, targets, seed, self.epoch, indices)
            yield images[self.batches.num_lent :], targets[self.batches.num_lent :]

    @property
    def places(self) -> np.ndarray:
        """The places (M,) in the split of all images that are this rank's, batch by batch."""
        return np.concatenate([self.inner.ravel(), self.last]).astype(np.int64)

    def _places(self, batch: int) -> np.ndarray:
        return self.inner[batch] if batch < len(self.inner) else self.last


def _integers(number: int) -> type[np.signedinteger]:
    """Return the type of integers below `number` that takes the least memory, of 4 and 8 bytes."""
    return np.int32 if number <= np.iinfo(np.int32).max else np.int64


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return the one-hot targets (B, C) float32 of `labels` (B,) int64."""
    return torch.nn.functional.one_hot(labels, num_classes).float()


def drawing_chances(labels: Tensor, num_classes: int) -> Tensor:
    """Return float64 (N,) probabilities with which every class that has images is drawn equally often."""
    counts = torch.bincount(labels, minlength=num_classes)
    chances = 1 / counts[labels].double()
    return chances / chances.sum()
