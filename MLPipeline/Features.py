"""What the frozen stages make of each image, computed once, kept in `output/cache/`, and trained on every epoch.

With the whole backbone frozen a row is the features (D,); with some stages frozen, the activations at the boundary;
with none, the decoded pixels (H, W, 3). Training reads rows and does not care which.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import Batches, Progress, Reading, no_progress, read_images, without
from MLPipeline.Device import decoding_threads
from MLPipeline.Errors import DataError
from MLPipeline.fast.FastForward import FastForward
from MLPipeline.files.Cache import RowStore
from MLPipeline.images.ScanFolders import ImageIndex, Skipped


@dataclass(frozen=True)
class CachedRows:
    """One stored row per image of the index: `take` returns them as the model's trainable part wants them."""

    stored: np.ndarray  # (M, ...) memory-mapped
    numbers: np.ndarray  # (N,) int64 row of each image; -1 where it is unreadable
    are_pixels: bool

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
    positions = np.flatnonzero(index.splits >= 0)
    numbers = np.full(len(index), -1, np.int64)
    unreadable: list[tuple[int, Skipped]] = []
    notes: list[Skipped] = []
    pending = _Pending(compute, store, numbers)
    with store.writing():
        paths = (index.path(position) for position in positions.tolist())
        decoded = read_images(paths, image_size, decoding_threads(workers), store.find)
        readings = progress(decoded, compute.kind, len(positions))
        for position, reading in zip(positions.tolist(), readings, strict=True):
            if reading.reason:
                unreadable.append((position, Skipped(index.name(position), reading.reason)))
            elif reading.row is not None:
                numbers[position] = reading.row
            else:
                pending.add(position, reading)
            if reading.note:
                notes.append(Skipped(index.name(position), reading.note))
        pending.flush()
        stored = store.rows()
    if len(unreadable) == len(positions):
        raise DataError(f"{index.root}: none of {len(positions)} images can be read", _reasons(unreadable))
    rows = CachedRows(stored, numbers, are_pixels=compute.kind == "pixels")
    index = without(index, [position for position, _ in unreadable])
    skipped = (*index.skipped, *(skip for _, skip in unreadable))
    return Dataset(index, rows, image_size, skipped, tuple(notes), pending.num_computed)


class _Pending:
    """Decoded images on their way through the frozen stages, a batch at a time."""

    def __init__(self, compute: _Computation, store: RowStore, numbers: np.ndarray) -> None:
        self.compute, self.store, self.numbers = compute, store, numbers
        self.readings: list[tuple[int, Reading]] = []
        self.num_computed = 0

    def add(self, position: int, reading: Reading) -> None:
        self.readings.append((position, reading))
        if len(self.readings) == self.compute.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self.readings:
            return
        rows = self.compute(np.stack([reading.pixels for _, reading in self.readings if reading.pixels is not None]))
        stored = self.store.append([reading.key for _, reading in self.readings], rows)
        self.numbers[[position for position, _ in self.readings]] = stored
        self.num_computed += len(self.readings)
        self.readings.clear()


class _Computation:
    """Pixels (B, H, W, 3) -> the rows to keep, and all that these depend on."""

    def __init__(self, model: Classifier, image_size: int, precision: str) -> None:
        if model.num_frozen_stages == 0:
            self.kind, self.identity = "pixels", f"{image_size}"
            self.row_shape, self.row_dtype = (image_size, image_size, 3), np.dtype(np.uint8)
            self.forward: FastForward | None = None
            self.batch_size = 1  # nothing to gain: there is nothing to compute
            return
        self.kind = "features"
        self.forward = FastForward(model, image_size, precision)
        self.batch_size = self.forward.batch_size
        self.identity = f"{image_size} {self.forward.dtype} {torch.__version__} {frozen_hash(model)}"
        sample = self(np.zeros((1, image_size, image_size, 3), np.uint8))
        self.row_shape, self.row_dtype = sample.shape[1:], sample.dtype

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if self.forward is None:
            return pixels
        return self.forward(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()


def frozen_hash(model: Classifier) -> str:
    """Return a hash of everything the frozen stages compute with: structure, parameters, buffers, normalisation."""
    state = hashlib.blake2b(digest_size=16)
    frozen = model.backbone[: model.num_frozen_stages]
    state.update(str(frozen).encode())
    for tensor in (model.mean, model.std, *frozen.state_dict().values()):
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _reasons(unreadable: list[tuple[int, Skipped]]) -> str:
    counts: dict[str, int] = {}
    for _, skipped in unreadable:
        counts[skipped.reason] = counts.get(skipped.reason, 0) + 1
    listed = ", ".join(f"{number} x {reason}" for reason, number in sorted(counts.items(), key=lambda c: -c[1])[:5])
    return f"Reasons: {listed}"
