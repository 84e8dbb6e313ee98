"""Folders -> index -> split -> batches: RGB uint8 images (B, 3, H, W) with one-hot float32 labels (B, C).

    index = split_images(scan_folders(Path("Data")), val_fraction=0.15, test_fraction=0.15, seed=0)
    for reading in read_images(paths, image_size=200, workers=2): ...
    for images, one_hot in Batches(rows, index, TRAIN, batch_size=8, seed=0).epoch(1): ...

Images are decoded by OpenCV in threads (it releases the interpreter lock), so there are no worker processes to hang.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Errors import DataError
from MLPipeline.files.Cache import digest
from MLPipeline.images.ReadImage import UnreadableImage, decode_image, read_bytes
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, UNSPLIT, VAL, ImageIndex

_FETCH_BYTES = 2**23  # rows taken from the store at once
_AHEAD_PER_THREAD = 8  # images read ahead of their use: hides the disk, and bounds the memory

Item = TypeVar("Item")
Progress = Callable[[Iterable[Item], str, int], Iterable[Item]]  # items, label, total

logger = logging.getLogger(__name__)


def no_progress(items: Iterable[Item], label: str, total: int) -> Iterable[Item]:
    """Return `items` as they are: the progress bar of those who want none."""
    return items


def split_images(index: ImageIndex, val_fraction: float, test_fraction: float, seed: int) -> ImageIndex:
    """Return the index with every image in a split, each class in the same proportions.

    Split folders stand as they are; a missing `val` or `test` is carved out of `train`. An image's place is drawn
    from (seed, its name), so it does not depend on the other classes. Every class keeps a training image.

    Raises:
        DataError: a split that was asked for has come out empty.
    """
    given = set(np.unique(index.splits).tolist()) - {UNSPLIT}
    shares = {split: share for split, share in ((TEST, test_fraction), (VAL, val_fraction)) if split not in given}
    shares = {split: share for split, share in shares.items() if share}
    for split in shares if given else ():
        logger.warning("no images in a %s folder: %g %% of train taken", SPLITS[split], round(100 * shares[split], 2))
    splits = np.where(index.splits == UNSPLIT, TRAIN, index.splits).astype(np.int8)
    for label, name in enumerate(index.classes):
        members = np.flatnonzero((index.labels == label) & (splits == TRAIN)).tolist()
        if len(members) == 1 and shares:
            logger.warning("class %r has a single image to split: used for training only", name)
        shuffled = sorted(members, key=lambda position: _draw(seed, index.name(position)))
        for split, share in shares.items():
            number = min(max(round(share * len(members)), 1), len(shuffled) - 1)
            splits[shuffled[:number]] = split
            shuffled = shuffled[number:]
    for split in shares:
        if not np.any(splits == split):
            mend = f"Add images, or say --{SPLITS[split]}-fraction 0"
            raise DataError(f"{index.root}: too few images to take any for {SPLITS[split]}", mend)
    return dataclasses.replace(index, splits=splits)


def without(index: ImageIndex, positions: list[int]) -> ImageIndex:
    """Return the index with the images at `positions` in no split: they turned out unreadable.

    Raises:
        DataError: a class has lost all its training images.
    """
    splits = index.splits.copy()
    splits[positions] = UNSPLIT
    before, after = (
        np.bincount(index.labels[each == TRAIN], minlength=len(index.classes)) for each in (index.splits, splits)
    )
    for label in np.flatnonzero((before > 0) & (after == 0)).tolist():
        what = f"{index.root}: class {index.classes[label]!r} has no readable training image"
        raise DataError(what, "Add some, or move the folder away")
    return dataclasses.replace(index, splits=splits)


@dataclass(frozen=True)
class Reading:
    """What became of one image file: `row` if a store knows it, `pixels` if it was decoded, else `reason`."""

    path: Path
    key: bytes = b""
    row: int | None = None
    pixels: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    reason: str = ""  # why it is skipped
    note: str = ""  # what was odd about a file that is used


def read_images(
    paths: Iterable[Path],
    image_size: int,
    workers: int,
    find: Callable[[bytes], int | None] = lambda key: None,
) -> Iterator[Reading]:
    """Yield one `Reading` per path, in order, decoded ahead by `workers` threads to `image_size` squared.

    `find` maps a file's digest to the row a store has for it; such a file is not decoded.
    """

    def read(path: Path) -> Reading:
        try:
            data = read_bytes(path)
            key = digest(data)
            if (row := find(key)) is not None:
                return Reading(path, key, row=row)
            picture = decode_image(data, (image_size, image_size))
        except UnreadableImage as error:
            return Reading(path, reason=error.reason)
        return Reading(path, key, pixels=picture.pixels, note=picture.note)

    ahead: deque[Future[Reading]] = deque()
    todo = iter(paths)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead.extend(pool.submit(read, path) for path in islice(todo, workers * _AHEAD_PER_THREAD))
        while ahead:
            reading = ahead.popleft().result()
            ahead.extend(pool.submit(read, path) for path in islice(todo, 1))
            yield reading
    finally:
        pool.shutdown(cancel_futures=True)


class Rows(Protocol):
    """One row per image of an index: pixels, features, or the activations between."""

    @property
    def row_bytes(self) -> int:
        """Size of one row in memory."""

    def take(self, positions: np.ndarray) -> Tensor:
        """Return the rows (B, ...) of these positions."""


class Batches:
    """The batches of one split, `(inputs (B, ...), one_hot (B, C) float32)`, in an order drawn from (seed, epoch).

    A last batch of one image joins the batch before it: BatchNorm cannot train on a single value per channel.
    """

    def __init__(self, rows: Rows, index: ImageIndex, split: int, batch_size: int, seed: int | None = None) -> None:
        self.rows = rows
        self.positions = index.positions(split)
        self.labels = torch.from_numpy(index.labels[self.positions]).long()
        self.num_classes = len(index.classes)
        self.batch_size = batch_size
        self.seed = seed  # None: in the order of the index

    def __len__(self) -> int:
        number = len(self.positions)
        return max(1, -(-number // self.batch_size) - (number % self.batch_size == 1)) if number else 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.epoch(0))

    def epoch(self, epoch: int) -> Epoch:
        """Return the batches of one epoch: every image of the split once."""
        order = np.arange(len(self.positions))
        if self.seed is not None:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        return Epoch(self, order)


@dataclass(frozen=True)
class Epoch:
    """One pass over a split; knows its length, so that a progress bar can tell the time left."""

    batches: Batches
    order: np.ndarray  # (N,) of places in the split

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        of, ends = self.batches, self._ends()
        # Rows are fetched for many batches at once: one by one, fetching costs a head as much as training.
        at_once = max(1, _FETCH_BYTES // (of.rows.row_bytes * of.batch_size))
        for first in range(0, len(ends), at_once):
            start, last_ends = ends[first - 1] if first else 0, ends[first : first + at_once]
            chosen = self.order[start : last_ends[-1]]
            inputs = of.rows.take(of.positions[chosen])
            targets = one_hot(of.labels[chosen], of.num_classes)
            sizes = np.diff([start, *last_ends]).tolist()
            yield from zip(inputs.split(sizes), targets.split(sizes), strict=True)

    def _ends(self) -> list[int]:
        """Return where in the order each batch ends."""
        inner = [number * self.batches.batch_size for number in range(1, len(self))]
        return [*inner, len(self.order)] if len(self) else []


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return float32 (B, C) with a one at each of the `labels` (B,)."""
    return torch.nn.functional.one_hot(labels, num_classes).float()


def _draw(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
