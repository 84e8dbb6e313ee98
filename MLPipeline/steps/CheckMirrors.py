"""Before mirroring or rotation is used by default: do the classes of these images survive it?

Two tests, each with a head fitted out of fold (see `audit.MirroredClasses`): on histograms of edges, from the small
grey pictures that the inspection keeps, which cost no reading; and where the model starts from trained weights, on its
features. Rank 0 decides for all ranks, and the decision is stored in the run's `config.json`.
B images of a batch, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from MLPipeline.audit.MirroredClasses import Exchange, edge_histograms, find_exchange
from MLPipeline.Augment import ROTATE_DEGREES, make_augmentation
from MLPipeline.augmentation.Pixels import affine, move
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.CreateDataset import read_images
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.StoredResult import result_file, stored_result
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex
from MLPipeline.steps.Prepare import preprocessing_of

MAX_IMAGES, MIN_PER_CLASS, MAX_PER_CLASS = 4000, 12, 200  # of the pictures that are in memory
MAX_IMAGES_READ, MAX_PER_CLASS_READ = 400, 40  # of those that go through the network
_AT_ONCE = 256
_FORMAT = 2  # increases with every change to how exchanges are found

# Of each augmentation the matrices of its variants, and for each of these the place of the inverse.
_ANGLES = np.deg2rad([-ROTATE_DEGREES, ROTATE_DEGREES])
MOVES: dict[str, tuple[tuple[np.ndarray, ...], tuple[int, ...]]] = {
    "hflip": ((affine(1, xx=-1.0),), (0,)),
    "vflip": ((affine(1, yy=-1.0),), (0,)),
    "rotate": (
        tuple(affine(1, xx=np.cos(a), xy=-np.sin(a), yx=np.sin(a), yy=np.cos(a)) for a in _ANGLES),
        (1, 0),
    ),
}
SAID = {"hflip": "mirrored left to right", "vflip": "mirrored top to bottom", "rotate": "rotated"}

FeaturesOf = Callable[[Sequence[np.ndarray]], list[np.ndarray]]  # of the images moved by each matrix (1, 3, 3)


def check_mirrors(
    config: Config, index: ImageIndex, inspection: Inspection, model: Classifier, is_stated: bool
) -> tuple[Config, list[str], str | None]:
    """Return the settings without default augmentations that exchange classes, and lines for the console about them.

    The last value says which classes mirroring left to right exchanges; "" if none, None if that is not tested.

    Args:
        config: the settings, with the model's defaults filled in.
        index: the images, split.
        inspection: of the same images.
        model: with its first weights; it is returned as it was.
        is_stated: the user has stated `--augment`: nothing is left out, and the lines only warn.
    """
    names = [name for name in make_augmentation(config.augment).names if name in MOVES]
    if not names:
        return config, [], None
    is_trained = config.unfreeze_after is not None or config.freeze != "none"
    found = ranks.from_first(
        _find_exchanges(config, index, inspection, model, names, is_trained and not is_stated) if ranks.is_first else {}
    )
    reasons = {name: f"{SAID[name]}, {each.to_text(index.classes)}" for name, each in found.items()}
    exchange = reasons.get("hflip", "") if "hflip" in names else None
    if is_stated:
        lines = [
            f"warning  --augment {name} may exchange classes: {reason}; --augment none avoids that"
            for name, reason in reasons.items()
        ]
        return config, lines, exchange
    kept = ",".join(name for name in make_augmentation(config.augment).names if name not in found) or "none"
    lines = [
        f"         {name} is left out: {reason}; --augment {config.augment} uses it" for name, reason in reasons.items()
    ]
    return replace(config, augment=kept), lines, exchange


def mirrored_exchange(index: ImageIndex, inspection: Inspection, cache: Path) -> str:
    """Return which classes mirroring left to right exchanges, by their edges; "" if none. No image is read.

    For the same images and labels, the `cache` has the answer.
    """
    name = "hflip"
    positions = _spread(index, _most_per_class(index, MAX_PER_CLASS_READ))  # enough, in a fifth of the time

    def find() -> str:
        found = _exchanges([name], _edges_of(inspection, positions), index, positions)
        return f"{SAID[name]}, {found[name].to_text(index.classes)}" if found else ""

    known = inspection.prints["digest"][positions], index.labels[positions]
    file = result_file(cache, "mirrors", (_FORMAT, index.classes), *known)
    return stored_result(file, find, str.encode, bytes.decode)


def _most_per_class(index: ImageIndex, most: int) -> int:
    return min(most, max(MIN_PER_CLASS, MAX_IMAGES // len(index.classes)))


def _find_exchanges(
    config: Config, index: ImageIndex, inspection: Inspection, model: Classifier, names: list[str], with_model: bool
) -> dict[str, Exchange]:
    """Return the two classes that an augmentation exchanges, for each of `names` that does."""
    positions = _spread(index, _most_per_class(index, MAX_PER_CLASS))
    found = _exchanges(names, _edges_of(inspection, positions), index, positions)
    left = [name for name in names if name not in found]
    if with_model and left and MAX_IMAGES_READ // len(index.classes):
        positions = _spread(index, min(MAX_PER_CLASS_READ, MAX_IMAGES_READ // len(index.classes)))
        model.freeze("backbone")
        how = preprocessing_of(config, index, inspection)
        found |= _exchanges(left, _features_of(config, how, index, model, positions), index, positions)
        model.freeze(config.freeze)
    return found


def _exchanges(
    names: list[str], features_of: FeaturesOf, index: ImageIndex, positions: np.ndarray
) -> dict[str, Exchange]:
    labels = index.labels[positions].astype(np.int64)
    matrices = [affine(1), *(matrix for name in names for matrix in MOVES[name][0])]
    as_they_are, *rows = features_of(matrices)
    found = {}
    for name in names:
        variants, inverses = MOVES[name]
        moved, rows = rows[: len(variants)], rows[len(variants) :]
        back = [moved[place] for place in inverses]
        if exchange := find_exchange(as_they_are, moved, back, labels, len(index.classes)):
            found[name] = exchange
    return found


def _spread(index: ImageIndex, per_class: int) -> np.ndarray:
    """Return the positions of up to `per_class` training images of each class, evenly spread over its files."""
    training = index.positions(TRAIN)
    chosen = [np.empty(0, np.int64)]
    for label in range(len(index.classes)):
        members = training[index.labels[training] == label]
        chosen.append(members[:: max(1, -(-len(members) // per_class))])
    return np.concatenate(chosen)


def _edges_of(inspection: Inspection, positions: np.ndarray) -> FeaturesOf:
    """Return the histograms of edges (N, 272) of the small grey pictures of the inspection."""

    def features(matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows: list[list[np.ndarray]] = [[] for _ in matrices]
        for first in range(0, len(positions), _AT_ONCE):
            pictures = np.ascontiguousarray(inspection.thumbnails(positions[first : first + _AT_ONCE]))
            grey = torch.from_numpy(pictures)[:, None].expand(-1, 3, -1, -1)
            for found, matrix in zip(rows, matrices, strict=True):
                found.append(edge_histograms(_moved(grey, matrix)[:, 0].numpy()))
        return [np.concatenate(each) for each in rows]

    return features


def _features_of(
    config: Config, how: Preprocessing, index: ImageIndex, model: Classifier, positions: np.ndarray
) -> FeaturesOf:
    """Return the features (N, D) of the frozen backbone; each image is read once, and kept nowhere."""
    forward = FastForward(model, config.image_size, config.precision)

    def features(matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
        rows: list[list[np.ndarray]] = [[] for _ in matrices]
        batches = (
            (found, _moved(images, matrix).permute(0, 2, 3, 1).contiguous().numpy())
            for images in _batches(config, how, index, positions, forward.batch_size)
            for found, matrix in zip(rows, matrices, strict=True)
        )
        for found, computed in forward.stream(batches):
            found.append(computed.float().numpy())
        return [np.concatenate(each) for each in rows]

    return features


def _batches(
    config: Config, how: Preprocessing, index: ImageIndex, positions: np.ndarray, batch_size: int
) -> Iterator[Tensor]:
    """Yield the images (B, 3, H, W) uint8; grey for a file that can no longer be read."""
    paths = (index.path(position) for position in positions.tolist())
    readings = read_images(paths, config.image_size, decoding_threads(config.workers), preprocessing=how)
    blank = np.full((config.image_size, config.image_size, 3), 128, np.uint8)
    while batch := [blank if each.pixels is None else each.pixels for each in islice(readings, batch_size)]:
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)


def _moved(images: Tensor, matrix: np.ndarray) -> Tensor:
    return move(images, np.repeat(matrix, len(images), 0))
