"""The pictures of a report: mistakes and correct predictions, as many as fit on the page, and training samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from MLPipeline.decoding.Levels import Levels
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL, ImageIndex
from MLPipeline.report.Drawing import Order, drawing
from MLPipeline.report.Names import drawable
from MLPipeline.report.Thumbnails import NO_PHOTOS, Photo, Thumbnail, embed

MAX_BYTES = 11_000_000  # of all pictures; with the rest a page stays under 15 MB
SHARE_OF_MISTAKES = 0.75  # of that: some room is reserved for correct predictions
NUM_WORST = 200  # mistakes come first whatever their classes; then all kinds of mistakes alternate
NUM_SAMPLES = 18
SURELY_SHOWN = 1000  # photographs that certainly fit into MAX_BYTES: one needs 5 to 10 kB
MAX_NAME = 60  # characters of a file's path


@dataclass(frozen=True, eq=False)
class Answers:
    """The predictions for the images of one split, each array `(N,)`."""

    positions: np.ndarray  # in the index
    true: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    losses: np.ndarray
    is_withheld: np.ndarray

    @property
    def is_right(self) -> np.ndarray:
        """Which predictions are correct."""
        return self.true == self.predicted


def answers_of(scored: SplitPredictions) -> Answers:
    """Return the predictions of `scored` as arrays, computed once: a softmax over 1,000 classes is slow."""
    predictions = scored.predictions
    true, predicted = predictions.labels, predictions.predicted
    log_probabilities = (predictions.logits.double() / predictions.temperature).log_softmax(dim=1)
    confidence, losses = (log_probabilities.gather(1, each[:, None])[:, 0] for each in (predicted, true))
    withheld = np.zeros(len(true), bool) if scored.is_withheld is None else scored.is_withheld.numpy()
    return Answers(
        scored.positions, true.numpy(), predicted.numpy(), confidence.exp().numpy(), -losses.numpy(), withheld
    )


@dataclass(frozen=True)
class Item:
    """One image of the gallery."""

    name: str
    true: int
    predicted: int
    confidence: float
    thumbnail: Thumbnail
    is_withheld: bool = False

    @property
    def is_right(self) -> bool:
        """Whether the prediction is correct."""
        return self.true == self.predicted


@dataclass(frozen=True)
class Gallery:
    """The images on the page: mistakes before correct predictions, and in both the highest loss first."""

    items: tuple[Item, ...]
    num_mistakes: int  # on the page or not
    num_right: int

    @property
    def num_left_out(self) -> int:
        """Number of images that are not on the page."""
        return self.num_mistakes + self.num_right - len(self.items)

    @property
    def has_heat_maps(self) -> bool:
        """Whether any image has one."""
        return any(item.thumbnail.heat for item in self.items)


def order_photos(index: ImageIndex, levels: Levels | None = None) -> Order:
    """Start making thumbnails, during training, of the images that will be on the page whatever is predicted for them.

    These are all images of the evaluated split, if so few that they fit.
    """
    evaluated = index.positions(TEST) if len(index.positions(TEST)) else index.positions(VAL)
    paths = [index.path(position) for position in evaluated.tolist()] if len(evaluated) <= SURELY_SHOWN else []
    return drawing.ask("Thumbnails.take_photos", paths, levels)


def gallery_of(
    index: ImageIndex,
    answers: Answers,
    heat_maps: Mapping[int, np.ndarray],
    photos: Mapping[Path, Photo] = NO_PHOTOS,
    limit: int = MAX_BYTES,
    preprocessing: Preprocessing = PLAIN,
) -> Gallery:
    """Return the images of a split that fit into `limit` bytes; `heat_maps` are by position in the index."""
    shown: dict[int, Thumbnail] = {}
    for is_right, budget in ((False, SHARE_OF_MISTAKES * limit), (True, limit)):
        order = choose_order(answers, is_right)
        positions = answers.positions[order].tolist()
        maps = {place: heat_maps[position] for place, position in enumerate(positions) if position in heat_maps}
        spent = sum(thumbnail.num_bytes for thumbnail in shown.values())
        paths = [index.path(position) for position in positions]
        thumbnails = embed(paths, int(budget - spent), maps, photos, preprocessing)
        shown |= dict(zip(order.tolist(), thumbnails, strict=False))
    places = np.array(sorted(shown), np.int64)
    places = places[np.lexsort((-answers.losses[places], answers.is_right[places]))]
    items = tuple(
        Item(
            drawable(index.name(int(answers.positions[place])), MAX_NAME),
            int(answers.true[place]),
            int(answers.predicted[place]),
            float(answers.confidence[place]),
            shown[place],
            bool(answers.is_withheld[place]),
        )
        for place in places.tolist()
    )
    num_right = int(answers.is_right.sum())
    return Gallery(items, len(answers.true) - num_right, num_right)


def choose_order(answers: Answers, is_right: bool) -> np.ndarray:
    """Return the images `(M,)` that were classified correctly, or incorrectly, the most important ones first.

    The worst mistakes come first; then the image of the highest loss from each cell of the confusion matrix, then the
    second of each cell, and so on, so that every cell is represented as long as there is room.
    """
    chosen = np.flatnonzero(answers.is_right == is_right)
    chosen = chosen[np.argsort(-answers.losses[chosen], kind="stable")]
    ranks = np.empty(len(chosen), np.int64)
    seen: Counter[tuple[int, int]] = Counter()
    for place, cell in enumerate(zip(answers.true[chosen].tolist(), answers.predicted[chosen].tolist(), strict=True)):
        ranks[place] = seen[cell]
        seen[cell] += 1
    if not is_right:
        ranks[:NUM_WORST] = -1
    return chosen[np.argsort(ranks, kind="stable")]


def samples_of(index: ImageIndex, preprocessing: Preprocessing = PLAIN) -> list[tuple[str, Thumbnail]]:
    """Return a few training images with their classes: the classes alternate, each evenly spread over its files."""
    positions = index.positions(TRAIN)
    by_class = [positions[index.labels[positions] == label] for label in range(len(index.classes))]
    in_turn = zip_longest(*(each[:: max(1, len(each) // NUM_SAMPLES)].tolist() for each in by_class[:NUM_SAMPLES]))
    chosen = sorted([p for p in chain.from_iterable(in_turn) if p is not None][:NUM_SAMPLES])
    paths = [index.path(position) for position in chosen]
    thumbnails = embed(paths, MAX_BYTES, preprocessing=preprocessing)
    return [(index.classes[index.labels[p]], thumbnail) for p, thumbnail in zip(chosen, thumbnails, strict=True)]
