"""What the frozen stages make of each image, computed once, kept in `output/cache/`, and trained on every epoch.

With the whole backbone frozen a row is the features (D,); with some stages frozen, the activations at the boundary;
with none, the decoded pixels (H, W, 3). Training reads rows and does not care which.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import Batches, Progress, Reading, no_progress, read_images, without
from MLPipeline.Device import decoding_threads, fast_dtypes
from MLPipeline.Errors import DataError
from MLPipeline.fast.FastForward import FastForward, forward_batch
from MLPipeline.files.Cache import RowStore
from MLPipeline.images.ImageWalk import Skipped, count_reasons
from MLPipeline.images.ReadImage import DECODER
from MLPipeline.images.ScanFolders import ImageIndex

Item = TypeVar("Item")


@dataclass(frozen=True)
class CachedRows:
    """One stored row per image of the index: `take` returns them as the model's trainable part wants them."""

    stored: np.ndarray  # (M, ...) memory-mapped
    numbers: np.ndarray  # (N,) int64 row of each image; -1 where it is unreadable
    are_pixels: bool

    @property
    def row_bytes(self) -> int:
        """Size of one row as stored."""
        return int(np.prod(self.stored.shape[1:])) * self.stored.itemsize

    def take(self, positions: np.ndarray) -> Tensor:
        """Return images (B, 3, H, W) uint8, or features (B, ...) float32, of these positions."""
        rows = torch.from_numpy(self.stored[self.numbers[positions]])
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: the layout convolutions are fastest in.
        return rows.permute(0, 3, 1, 2) if self.are_pixels else rows.float()


@dataclass(frozen=True)
class Dataset:
    """A split index with one stored row per image: all that training and evaluation need."""

    index: ImageIndex  # unreadable images are in no split any more
    rows: CachedRows
    image_size: int  # side of the squares the rows were made from, in pixels
    skipped: tuple[Skipped, ...]  # all that is not used, with reasons
    notes: tuple[Skipped, ...]  # used, but odd: an end marker missing, the first frame of several
    num_computed: int  # rows that were not in the cache

    def batches(self, split: int, batch_size: int, seed: int | None = None) -> Batches:
        """Return the batches of one split: shuffled by `seed`, or in the order of the index."""
        return Batches(self.rows, self.index, split, batch_size, seed)


def extract(
    model: Classifier,
    index: ImageIndex,
    image_size: int,
    cache: Path,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Return `index` with what the frozen stages of `model` give for each of its images that is in a split.

    Rows already in the store are not computed again: new images cost only themselves.

    Raises:
        DataError: a class has no readable training image.
        ResourceError: the cache cannot be written.
    """
    compute = _Computation(model, image_size, precision)
    store = RowStore(cache, compute.kind, compute.identity, compute.row_shape, compute.row_dtype)
    positions = np.flatnonzero(index.splits >= 0).tolist()
    found = _Found(np.full(len(index), -1, np.int64))
    with store.writing():
        paths = (index.path(position) for position in positions)
        decoded = read_images(paths, image_size, decoding_threads(workers), store.find)
        readings = zip(positions, progress(decoded, compute.kind, len(positions)), strict=True)
        for missing, new_rows in compute.stream(found.batches_to_compute(readings, compute.batch_size)):
            found.keep(missing, store.append([reading.key for _, reading in missing], new_rows))
        rows = CachedRows(store.rows(), found.numbers, are_pixels=compute.kind == "pixels")
    unreadable = [Skipped(index.name(position), reason) for position, reason in found.unreadable.items()]
    if len(unreadable) == len(positions):
        raise DataError(f"{index.root}: none of {len(positions)} images can be read", count_reasons(unreadable))
    notes = tuple(Skipped(index.name(position), note) for position, note in found.notes.items())
    readable = without(index, list(found.unreadable))
    return Dataset(readable, rows, image_size, (*index.skipped, *unreadable), notes, found.num_computed)


class _Found:
    """Where the row of each image is, as far as it is known."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.unreadable: dict[int, str] = {}  # position -> reason
        self.notes: dict[int, str] = {}
        self.num_computed = 0

    def batches_to_compute(
        self, readings: Iterable[tuple[int, Reading]], batch_size: int
    ) -> Iterator[tuple[list[tuple[int, Reading]], np.ndarray]]:
        """Yield the images that have no row yet, with their pixels (B, H, W, 3); take note of all others."""
        missing: list[tuple[int, Reading]] = []
        for position, reading in readings:
            if reading.note:
                self.notes[position] = reading.note
            if reading.reason:
                self.unreadable[position] = reading.reason
            elif reading.row is not None:
                self.numbers[position] = reading.row
            else:
                missing.append((position, reading))
            if len(missing) == batch_size:
                yield missing, _pixels(missing)
                missing = []
        if missing:
            yield missing, _pixels(missing)

    def keep(self, computed: list[tuple[int, Reading]], rows: list[int]) -> None:
        """Remember the row numbers of images that were computed."""
        self.numbers[[position for position, _ in computed]] = rows
        self.num_computed += len(computed)


def _pixels(images: list[tuple[int, Reading]]) -> np.ndarray:
    return np.stack([reading.pixels for _, reading in images if reading.pixels is not None])


class _Computation:
    """Pixels (B, H, W, 3) -> the rows to keep, and all that these depend on."""

    def __init__(self, model: Classifier, image_size: int, precision: str) -> None:
        self.model, self.image_size, self.precision = model, image_size, precision
        self.batch_size = 1  # nothing to gain where there is nothing to compute
        self.kind, self.identity = "pixels", f"{image_size} {DECODER}"
        self.row_shape: tuple[int, ...] = (image_size, image_size, 3)
        self.row_dtype: np.dtype = np.dtype(np.uint8)
        if model.num_frozen_stages:
            self.batch_size = forward_batch(model.mean.device)
            # The numbers depend on the processor too: it decides on the number format.
            machine = f"{precision} {fast_dtypes(model.mean.device, precision)} {torch.__version__}"
            self.kind, self.identity = "features", f"{self.identity} {machine} {frozen_hash(model)}"
            with torch.inference_mode():
                blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=model.mean.device)
                self.row_shape = tuple(model.frozen_features(blank).shape[1:])
            self.row_dtype = np.dtype(np.float16)

    def stream(self, batches: Iterator[tuple[Item, np.ndarray]]) -> Iterator[tuple[Item, np.ndarray]]:
        """Yield the batches with rows (B, ...) in place of their pixels, in order."""
        if self.kind == "pixels" or (first := next(batches, None)) is None:
            yield from batches  # where the cache has all rows, no network is made ready
            return
        forward = FastForward(self.model, self.image_size, self.precision)
        for item, rows in forward.stream(itertools.chain([first], batches)):
            yield item, rows.numpy()


def frozen_hash(model: Classifier) -> str:
    """Return a hash of everything the frozen stages compute with: structure, parameters, buffers, normalisation."""
    state = hashlib.blake2b(digest_size=16)
    frozen = model.backbone[: model.num_frozen_stages]
    state.update(str(frozen).encode())
    for tensor in (model.mean, model.std, *frozen.state_dict().values()):
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
