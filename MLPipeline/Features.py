"""The output of the frozen stages for each image: computed once, stored in `output/cache/`, read in every epoch.

With the whole backbone frozen, a row is the features (D,); with some stages frozen, the activations at the boundary;
with none, the decoded pixels (H, W, 3). Training reads rows of any of the three.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Augment import Augmentation
from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import NOTHING_DECODED, Augment, Batches, Reading, read_images
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.Cache import RowStore, digest, has_room
from MLPipeline.files.OncePerMachine import once_per_machine
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.frozen.Rows import CachedRows, FileRows, Found, KnownRows
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex


@dataclass(frozen=True)
class Views:
    """Augmented versions (views) of every training image, stored beside it, where frozen stages run once per image.

    The augmentation of a view is drawn from (seed, number of the view, content of the image): other images do not
    change it.
    """

    number: int
    augment: Augmentation
    seed: int

    def key(self, content: bytes, view: int) -> bytes:
        """Return the key of the row of a view; view 0 is the image as it is."""
        return digest(content + f"{self.augment} {self.seed} {view}".encode()) if view else content

    def find(self, store: RowStore, view: int, content: bytes) -> int | None:
        """Return the number of the row of a view in `store`, or None."""
        return store.find(self.key(content, view))

    def apply(self, pixels: np.ndarray, contents: Sequence[bytes], view: int) -> np.ndarray:
        """Return `pixels` (B, H, W, 3) uint8 as they are in a view."""
        images, unused = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.zeros(len(pixels), 1)
        indices = torch.tensor([int.from_bytes(content[:8], "little", signed=True) for content in contents])
        return self.augment(images, unused, self.seed, view, indices)[0].permute(0, 2, 3, 1).numpy()


_HANDED_OVER, _HANDED_OVER_BYTES = 64, 2**23  # rows of a rank that may wait to be written
NO_VIEWS = Views(0, Augmentation(()), 0)


@dataclass(frozen=True)
class Dataset:
    """A split index with one stored row per image: what training and evaluation read."""

    index: ImageIndex  # without the unreadable images
    rows: CachedRows | FileRows
    image_size: int  # side of the squares the rows were made from, in pixels
    num_computed: int  # rows that were not in the cache
    notes: tuple[Skipped, ...] = ()  # images that are used with a remark: end marker missing, first of several frames

    @property
    def num_views(self) -> int:
        """How many augmented views of each training image are stored."""
        return self.rows.numbers.shape[1] - 1 if isinstance(self.rows, CachedRows) else 0

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """All files that are not used, with reasons."""
        return self.index.skipped

    def batches(
        self,
        split: int,
        batch_size: int,
        seed: int | None = None,
        augment: Augment | None = None,
        balanced: bool = False,
    ) -> Batches:
        """Return the batches of one split: shuffled by `seed`, or in the order of the index."""
        return Batches(self.rows, self.index, split, batch_size, seed, augment, balanced)


def extract(
    model: Classifier,
    index: ImageIndex,
    image_size: int,
    cache: Path,
    precision: str = "auto",
    workers: int | None = None,
    progress: Progress = no_progress,
    contents: np.ndarray | None = None,
    views: Views = NO_VIEWS,
    cache_limit: float | None = np.inf,
    preprocessing: Preprocessing = PLAIN,
    decoded: Mapping[bytes, np.ndarray] = NOTHING_DECODED,
) -> Dataset:
    """Return `index` with the output of the frozen stages of `model` for each image that is in a split.

    Rows in the store are not computed again, nor are files read of whose keys, in `contents` (N,), the store has a row
    or `decoded` the pixels. `views` are stored, too; without room (`cache_limit` in GB) stages run every epoch.

    Raises:
        DataError: a class has no readable training image.
        ResourceError: the cache cannot be written.
    """
    stages, positions = FrozenStages(model, image_size, precision, preprocessing.fit), np.flatnonzero(index.splits >= 0)
    views, workers = _make_room(cache, stages, index, views, cache_limit), decoding_threads(workers)
    if stages.stores_nothing:
        return Dataset(index, FileRows(index, image_size, workers, preprocessing=preprocessing), image_size, 0)
    store, known = stages.store(cache), KnownRows(index, views.number)
    with store.writing():
        for view in range(1 + views.number):
            chosen = (positions if view == 0 else known.readable(index.positions(TRAIN)))[ranks.dealt]
            find = partial(views.find, store, view)
            missing = (chosen if contents is None else known.recall(chosen, contents, view, find)).tolist()
            keys = None if contents is None else map(bytes, contents[missing].tolist())
            found = read_images(map(index.path, missing), image_size, workers, find, preprocessing, keys, decoded)
            readings = zip(missing, progress(found, stages.label(view), len(missing)), strict=True)
            _compute(stages, known, store, readings, len(missing), views, view)
        numbers = once_per_machine(lambda: known.numbers, cache)
        rows = CachedRows(store.rows(), numbers, are_pixels=stages.kind == "pixels")
    return Dataset(known.usable(len(positions)), rows, image_size, known.num_computed)


def _make_room(cache: Path, stages: FrozenStages, index: ImageIndex, views: Views, limit: float | None) -> Views:
    """Return the views to store; where there is no room for all rows, pixels are stored instead, or else nothing."""

    def fits(views: Views) -> bool:  # rank 0 decides, and makes the room
        num_rows = int((index.splits >= 0).sum()) + views.number * len(index.positions(TRAIN))
        return ranks.from_first(ranks.is_first and has_room(cache, stages.store(cache), num_rows, limit))

    if fits(views):
        return views
    stages.keep_pixels()
    stages.stores_nothing = not fits(NO_VIEWS)
    return NO_VIEWS


def _at_once(store: RowStore) -> int:
    """Return how many images each rank reads before their rows are written."""
    return max(1, min(_HANDED_OVER, _HANDED_OVER_BYTES // store.row_bytes))


def _compute(
    stages: FrozenStages,
    known: KnownRows,
    store: RowStore,
    readings: Iterable[tuple[int, Reading]],
    number: int,
    views: Views,
    view: int,
) -> None:
    """Compute the rows of one view that are not in the store yet, from `number` readings, and write them."""
    readings = ranks.in_step(readings, number, _at_once(store), partial(known.hand_over, store, view))
    batches = _in_view(known.to_compute(readings, stages.batch_size, view), views, view)
    for images, rows in stages.stream(batches):
        keys = [views.key(reading.key, view) for _, reading in images]
        known.computed.append(([position for position, _ in images], keys, rows))
    known.share(store, view)


def _in_view(
    batches: Iterator[tuple[Found, np.ndarray]], views: Views, view: int
) -> Iterator[tuple[Found, np.ndarray]]:
    for images, pixels in batches:
        yield images, views.apply(pixels, [reading.key for _, reading in images], view) if view else pixels
