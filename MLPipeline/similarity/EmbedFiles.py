"""Image files -> their features: computed once, kept in the cache, and read from there in blocks.

    collection = embed_files(network, index_files(files), output / "cache")
    collection.block(0, 1000)                        # features (1000, D) float32 of the first images

Training, `audit`, `embed` and `similar` share the cache: features that one of them has computed are not computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from MLPipeline.Features import Dataset, extract
from MLPipeline.files.Cache import has_room
from MLPipeline.frozen.DecodeOnce import RowKeeper
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.images.ScanFolders import TRAIN, UNSPLIT, ImageIndex
from MLPipeline.similarity.FeatureNetwork import FeatureNetwork, Origin

Block = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Collection:
    """Images with their features, which stay in a file until they are asked for."""

    names: tuple[str, ...]  # the paths of the images, as they were given
    folder: Path  # relative paths start here
    block: Block  # (start, stop) -> features (stop - start, D) float32
    width: int  # number of features, D
    origin: Origin
    skipped: tuple[Skipped, ...] = ()  # images that cannot be read

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> Path:
        """Return the path of one image."""
        return self.folder / self.names[position]


def embed_files(
    network: FeatureNetwork,
    index: ImageIndex,
    cache: Path,
    precision: str = "auto",
    workers: int | None = None,
    cache_limit: float | None = np.inf,
    progress: Progress = no_progress,
) -> Collection:
    """Return the images of `index` that can be read, with their features.

    Features in the cache are not computed again, and files that have not changed are not read again.

    Raises:
        DataError: no image can be read, more than 1 % of the files have vanished, or ranks see different files.
        ResourceError: the cache cannot be written, or has no room.
    """
    size, preprocessing = network.origin.image_size, network.preprocessing

    def frozen_stages() -> FrozenStages:
        return FrozenStages(network.model, size, precision, preprocessing.fit)

    ranks.require_same({"images": index.identity})
    _require_room(cache, frozen_stages(), len(index), cache_limit)
    # With several ranks, the features are computed after the inspection, as they are before training.
    keeper = RowKeeper(size, frozen_stages, cache, len(index), cache_limit, preprocessing.fit)
    alone = keeper if ranks.size == 1 else None
    inspection = inspect_images(index, cache, decoding_threads(workers), progress=progress, keeper=alone)
    chosen = replace(index, splits=np.where(inspection.is_readable, TRAIN, UNSPLIT).astype(np.int8))
    dataset = extract(
        network.model,
        chosen,
        *(size, cache, precision, workers, progress),
        inspection.row_keys(preprocessing.levels),
        cache_limit=cache_limit,
        preprocessing=preprocessing,
    )
    return _collection(dataset, network.origin, (*inspection.skipped(index), *dataset.skipped))


def _collection(dataset: Dataset, origin: Origin, skipped: tuple[Skipped, ...]) -> Collection:
    positions = dataset.index.positions(TRAIN)

    def block(start: int, stop: int) -> np.ndarray:
        return dataset.rows.take(positions[start:stop], 0).numpy()

    names = tuple(str(dataset.index.path(position)) for position in positions.tolist())
    return Collection(names, Path(), block, block(0, 1).shape[1], origin, skipped)


def _require_room(cache: Path, stages: FrozenStages, number: int, limit: float | None) -> None:
    store = stages.store(cache)
    if not ranks.from_first(ranks.is_first and has_room(cache, store, number, limit)):
        needed = number * store.row_bytes / 1e9
        what = f"{cache}: no room for the features of {number:,} images ({needed:.1f} GB)"
        raise ResourceError(what, "Free disk space, raise --cache-limit, or give another --output")
