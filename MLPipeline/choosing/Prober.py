"""Tests one backbone: how long an image takes, and which images a head on its features classifies correctly.

Every image is tested by a ridge head that was fitted without its fold, with a penalty chosen among the others. The
folds depend on the images alone, so all backbones are tested on the same images by heads fitted on the same others.
Features are stored in the cache where training looks for them.
N training images, M of them in the sample, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from MLPipeline.choosing.Backbones import Backbone
from MLPipeline.choosing.Sample import beginning, stratified_order
from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import read_images
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Errors import DataError, DivergedError, ResourceError, within_memory
from MLPipeline.Features import extract
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.heads.CrossValidate import cross_validate
from MLPipeline.heads.HeadImages import HeadImages, plain_images, rooted
from MLPipeline.heads.SolveHead import RIDGE, solve
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex
from MLPipeline.images.SplitImages import only

NUM_FOLDS = 5
MAX_IMAGES = 10_000  # more would make the differences more certain than they need to be
_MEASURED_BATCHES = 8  # for the seconds per image
_LIGHT = "Leave it out, or close other programs"

Item = TypeVar("Item")


class TimeIsOverError(Exception):
    """The time given has passed while features were computed; those computed so far are stored."""


@dataclass(frozen=True)
class Cost:
    """What a backbone costs."""

    seconds_per_image: float  # reading a file and computing its features, with all cores
    megabytes: float  # of its weights in fp32, without a head
    start_s: float  # once, before the first image


@dataclass(frozen=True, eq=False)
class Tested:
    """Which images of a sample a backbone classifies correctly."""

    num_images: int  # in the sample: M
    outcomes: (
        np.ndarray
    )  # (N,) int8: 1 correct, 0 wrong, -1 not tested: not in the sample, or the only group of a class

    @property
    def num_tested(self) -> int:
        """The number of images that were tested."""
        return int((self.outcomes >= 0).sum())

    @property
    def accuracy(self) -> float:
        """The share of correct answers."""
        return float((self.outcomes == 1).sum() / max(1, self.num_tested))


@dataclass(frozen=True)
class Place:
    """Where images are read and features are stored, and how: the settings that the features depend on, and others."""

    cache: Path
    device: torch.device
    precision: str = "auto"
    workers: int | None = None
    cache_limit: float | None = np.inf


class Prober:
    """Tests backbones on the training images of a split `index`; no other image is read.

    Args:
        index: the images, split, with the groups of copies.
        contents: the key of each image, (N,) V16; see `Inspection.row_keys`.
        preprocessing: how images become the input of a network.
        place: where features are stored, and how they are computed.
        seed: of the sample and of the folds.
        progress: shows how far an extraction is.

    Raises:
        DataError: no image can be tested, since no class has two images that are not copies.
    """

    def __init__(
        self,
        index: ImageIndex,
        contents: np.ndarray,
        preprocessing: Preprocessing,
        place: Place,
        seed: int,
        progress: Progress = no_progress,
    ) -> None:
        self.index, self.contents, self.preprocessing, self.place = index, contents, preprocessing, place
        self.seed, self.progress = seed, progress
        self.positions = index.positions(TRAIN)
        self.labels = index.labels[self.positions].astype(np.int64)
        groups = np.arange(len(index)) if index.groups is None else index.groups
        self.groups = groups[self.positions].astype(np.int64)
        pairs = np.unique(np.stack([self.labels, self.groups], 1), axis=0)[:, 0]
        if np.bincount(pairs, minlength=1).max() < 2:
            what = f"{index.root}: no class has two training images that are not copies, so no backbone can be tested"
            raise DataError(what, "Add images, or train a given one: --model efficientnet_lite0")

    @property
    def num_images(self) -> int:
        """The largest number of images that a sample may have."""
        return min(len(self.positions), MAX_IMAGES)

    @property
    def num_needed(self) -> int:
        """The smallest number with which a test says anything: two per class and fold."""
        return min(self.num_images, 2 * NUM_FOLDS * len(np.unique(self.labels)))

    def measure(self, backbone: Backbone) -> Cost:
        """Return what a backbone costs, measured on a few images whose features are not stored."""
        start = time.perf_counter()
        network = backbone.load(self.place.device)
        with within_memory(f"while {backbone.model} was measured", _LIGHT), torch.inference_mode():
            forward = FastForward(network, backbone.image_size, self.place.precision)
            self._run(forward, backbone.image_size, 2 * forward.batch_size)  # the first batches prepare the kernels
            started = time.perf_counter()
            number = self._run(forward, backbone.image_size, _MEASURED_BATCHES * forward.batch_size)
        seconds = (time.perf_counter() - started) / max(1, number)
        tensors = network.backbone.state_dict().values()
        return Cost(seconds, sum(each.numel() for each in tensors) * 4 / 1e6, started - start)

    def test(self, backbone: Backbone, number: int, deadline: float = np.inf) -> Tested:
        """Return the result of a backbone on the first `number` images of the sample.

        Raises:
            TimeIsOverError: at `deadline`, by `time.monotonic`, not all features were computed.
            ResourceError: there is no room for the features.
            DivergedError: a feature is not finite.
        """
        chosen = beginning(self._order, self.groups[self._order], number)
        kept, images = self.features(backbone, chosen, deadline)
        outcomes = np.full(len(self.positions), -1, np.int8)
        with within_memory(f"while {backbone.model} was tested", _LIGHT):
            outcomes[kept] = out_of_fold(images, self.seed)
        return Tested(len(images), outcomes)

    @cached_property
    def _order(self) -> np.ndarray:
        return stratified_order(self.labels, self.groups, self.seed)

    def features(
        self, backbone: Backbone, chosen: np.ndarray, deadline: float = np.inf
    ) -> tuple[np.ndarray, HeadImages]:
        """Return those training images at `chosen` (M,) that can be read, with their features, stored or computed.

        Raises as `test`.
        """
        with within_memory(f"while {backbone.model} was tested", _LIGHT):
            return self._features(backbone.load(self.place.device), backbone, chosen, deadline)

    def _features(
        self, network: Classifier, backbone: Backbone, chosen: np.ndarray, deadline: float
    ) -> tuple[np.ndarray, HeadImages]:
        place = self.place

        def until_deadline(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
            for item in self.progress(items, f"{backbone.to_text()}, {label}", total):
                if time.monotonic() > deadline:
                    raise TimeIsOverError
                yield item

        dataset = extract(
            network,
            only(self.index, self.positions[chosen], TRAIN),
            backbone.image_size,
            place.cache,
            place.precision,
            place.workers,
            until_deadline,
            self.contents,
            cache_limit=place.cache_limit,
            preprocessing=self.preprocessing,
        )
        if dataset.rows.are_pixels:
            what = f"--cache-limit: no room for the features of {len(chosen):,} images by {backbone.model}"
            raise ResourceError(what, "Give a larger limit")
        left = dataset.index.positions(TRAIN)
        rows = dataset.rows.take(left, 0).numpy()
        if not np.isfinite(rows).all():
            what = f"{backbone.model}: its features are not finite"
            raise DivergedError(what, "Leave it out, or try --precision fp32")
        kept = np.searchsorted(self.positions, left)
        return kept, plain_images(rooted(rows), self.labels[kept], len(self.index.classes), self.groups[kept])

    def _run(self, forward: FastForward, image_size: int, number: int) -> int:
        """Read up to `number` images and compute their features; return how many were read."""
        paths = [self.index.path(position) for position in self.positions[self._order[:number]].tolist()]
        threads = decoding_threads(self.place.workers)
        readings = read_images(paths, image_size, threads, preprocessing=self.preprocessing)
        pixels = (each.pixels for each in readings if each.pixels is not None)

        def batches() -> Iterator[tuple[int, np.ndarray]]:
            while batch := list(islice(pixels, forward.batch_size)):
                yield len(batch), np.stack(batch)

        return sum(size for size, _ in forward.stream(batches()))


def out_of_fold(images: HeadImages, seed: int) -> np.ndarray:
    """Return (M,) int8: 1 for an image that a head fitted without its fold classifies correctly, else 0; -1: untested.

    Args:
        images: the images with their features.
        seed: draws the folds.
    """
    found = cross_validate(images, lambda others: solve(others, RIDGE, seed).head.logits, NUM_FOLDS, seed)
    outcomes = np.full(len(images), -1, np.int8)
    outcomes[found.tested] = found.logits.argmax(1) == images.labels[found.tested]
    return outcomes
