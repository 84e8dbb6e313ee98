"""Pairs of images that look alike when small -> which are copies, after reading both files again at a larger size.

The work is bounded where very many images look alike, as in a video: the most alike pairs are checked first, images
that are already linked as copies of one picture are not compared again, and an image that has differed from several
others is compared with no more of them. Where a sample of the pairs of a large class are copies without exception, the
other pairs of that class are taken to be copies too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from MLPipeline.decoding.Levels import Levels
from MLPipeline.decoding.ReadImage import UnreadableImage, read_thumbnail
from MLPipeline.images.ReadAhead import Progress, decoding_threads, no_progress
from MLPipeline.images.SamePicture import READ_SIDE, is_same_picture

MAX_DIFFERENT = 6  # images that one may differ from; even among X-rays its copy is the one that looks most like it
MAX_IN_FULL, NUM_SAMPLED = 400, 100  # a class with more alike images is sampled: then at most 3 % differ (P = 0.95)
_PAIRS_AT_ONCE = 16
_PICTURES_KEPT = 48  # 1.5 MB each at most


def confirm_copies(
    first: np.ndarray,
    second: np.ndarray,
    likeness: np.ndarray,
    path_of: Callable[[int], Path],
    levels: Levels | None = None,
    classes: np.ndarray | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Return which pairs of images (K,) are copies, (K,) bool: enough of them to link each copy with the others.

    Args:
        first: (K,) int64 positions of images.
        second: (K,) likewise.
        likeness: (K,) how much alike they look; the most alike are checked first.
        path_of: returns the file of the image at a position.
        levels: of pictures of more than 8 bits.
        classes: (K,) the class of both images, of a pair that may be decided by a sample; -1: the pair is always
            checked. By default, all are.
        progress: shows how many pairs are decided.
    """
    check, is_sure = _checker(first, second, path_of, levels), np.zeros(len(first), bool)
    is_copy = np.zeros(len(first), bool)
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        for pairs in _large_classes(first, second, classes):
            sample = np.random.default_rng(0).choice(pairs, NUM_SAMPLED, replace=False)
            is_sure[pairs] = all(threads.map(check, sample.tolist()))
        decided = _decide(first, second, likeness, lambda pair: bool(is_sure[pair]) or check(pair), threads)
        for pair, is_same in progress(decided, "comparing copies", len(first)):
            is_copy[pair] = is_same
    return is_copy


def _checker(
    first: np.ndarray, second: np.ndarray, path_of: Callable[[int], Path], levels: Levels | None
) -> Callable[[int], bool]:
    """Return a function that says of a pair whether its files show the same picture."""

    @lru_cache(_PICTURES_KEPT)
    def read(position: int) -> np.ndarray | None:
        try:
            return read_thumbnail(path_of(position), READ_SIDE, levels)
        except UnreadableImage:  # it has changed since it was inspected: training reads it again and says so
            return None

    def check(pair: int) -> bool:
        one, other = read(int(first[pair])), read(int(second[pair]))
        return one is not None and other is not None and is_same_picture(one, other)

    return check


def _decide(
    first: np.ndarray,
    second: np.ndarray,
    likeness: np.ndarray,
    check: Callable[[int], bool],
    threads: ThreadPoolExecutor,
) -> Iterator[tuple[int, bool]]:
    """Yield each pair, the most alike first, and whether it links two copies that no pair before it has linked."""
    links, waiting = _Links(), deque(np.argsort(-likeness, kind="stable").tolist())
    while waiting:
        chosen, settled = _next_round(waiting, links, first, second)
        yield from ((pair, False) for pair in settled)
        for pair, is_same in zip(chosen, threads.map(check, chosen), strict=True):
            links.add(int(first[pair]), int(second[pair]), is_same)
            yield pair, is_same


def _large_classes(first: np.ndarray, second: np.ndarray, classes: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield the pairs (M,) of each class in which more than `MAX_IN_FULL` images look alike."""
    for label in np.unique(classes) if classes is not None else ():
        pairs = np.flatnonzero(classes == label)
        if label >= 0 and len(np.union1d(first[pairs], second[pairs])) > MAX_IN_FULL:
            yield pairs


def _next_round(
    waiting: deque[int], links: _Links, first: np.ndarray, second: np.ndarray
) -> tuple[list[int], list[int]]:
    """Return the next pairs to compare together, taken from `waiting`, and those that need not be compared any more.

    No pair of a round is one that the others of the round may link.
    """
    chosen: list[int] = []
    settled: list[int] = []
    later: list[int] = []
    met: set[int] = set()  # groups in this round: two of them may be linked by the end of it
    while waiting and len(chosen) < _PAIRS_AT_ONCE and len(later) < _PAIRS_AT_ONCE:
        pair = waiting.popleft()
        one, other = int(first[pair]), int(second[pair])
        if not links.leave_open(one, other):
            settled.append(pair)
            continue
        groups = {links.root(one), links.root(other)}
        (later if groups <= met else chosen).append(pair)
        met |= groups
    waiting.extendleft(reversed(later))
    return chosen, settled


class _Links:
    """What is known so far of which images are copies."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.different: dict[int, int] = {}  # how many images each has differed from

    def leave_open(self, one: int, other: int) -> bool:
        """Return whether these two are still to be compared."""
        most = max(self.different.get(one, 0), self.different.get(other, 0))
        return most < MAX_DIFFERENT and self.root(one) != self.root(other)

    def add(self, one: int, other: int, is_same: bool) -> None:
        """Remember whether these two are copies."""
        if is_same:
            self.parents[self.root(other)] = self.root(one)
        else:
            for image in (one, other):
                self.different[image] = self.different.get(image, 0) + 1

    def root(self, image: int) -> int:
        """Return the image that stands for the group of copies of `image`."""
        while (parent := self.parents.get(image, image)) != image:
            self.parents[image] = self.parents.get(parent, parent)  # halves the way for the next time
            image = parent
        return image
