"""Pairs of images that look alike when small -> which are copies, after reading both files again at a larger size.

The work is bounded where very many images look alike, as in a video: the most alike pairs are checked first, images
that are already known to be copies of one picture by way of others are not compared again, and an image that has
differed from several others is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from MLPipeline.decoding.ReadImage import UnreadableImage
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.SamePicture import is_same_picture

MAX_REFUTED = 6  # checks an image may fail; its copy is the picture most like it even among X-rays
_PAIRS_AT_ONCE = 64
_PICTURES_KEPT = 48  # 1.5 MB each at most


def confirm_copies(
    first: np.ndarray, second: np.ndarray, likeness: np.ndarray, picture_of: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return which pairs of images (K,) are copies, (K,) bool: enough of them to link every copy with its original.

    Args:
        first: (K,) int64 positions of images.
        second: (K,) likewise.
        likeness: (K,) how much alike they look; the most alike are checked first.
        picture_of: returns the image at a position, (H, W, 3) uint8 RGB, of READ_SIDE pixels at most.
    """
    is_copy, refuted = np.zeros(len(first), bool), np.zeros(max(second.max(initial=-1), first.max(initial=-1)) + 1, int)
    group = np.arange(len(refuted))
    order = np.argsort(-likeness, kind="stable")

    @lru_cache(_PICTURES_KEPT)
    def read(position: int) -> np.ndarray | None:
        try:
            return picture_of(position)
        except UnreadableImage:
            return None  # changed since it was inspected: reading it for training says so

    def check(pair: int) -> bool:
        one, other = read(int(first[pair])), read(int(second[pair]))
        return one is not None and other is not None and is_same_picture(one, other)

    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        for start in range(0, len(order), _PAIRS_AT_ONCE):
            chosen = order[start : start + _PAIRS_AT_ONCE]
            one, other = first[chosen], second[chosen]
            is_open = (group[one] != group[other]) & (np.maximum(refuted[one], refuted[other]) < MAX_REFUTED)
            chosen = chosen[is_open]
            is_copy[chosen] = list(threads.map(check, chosen.tolist()))
            for pair in chosen.tolist():
                ends = first[pair], second[pair]
                if is_copy[pair]:
                    group[group == group[ends[1]]] = group[ends[0]]
                else:
                    refuted[list(ends)] += 1
    return is_copy
