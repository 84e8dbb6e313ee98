"""Hashes of images -> pairs that may be copies, in time and memory that grow in proportion to the number of images.

When hashes are sorted by randomly permuted bits, those that agree in the leading bits are neighbours; 32 random orders
give 32 chances (Charikar 2002, "Similarity estimation techniques from rounding algorithms", section 3). Besides the
hashes and the pairs, an order takes 50 bytes per image: all else is computed in blocks.
N images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

NUM_ORDERS, NUM_NEIGHBOURS = 32, 8  # find 98 % of the pairs cropped by 3 % on every side among 54,000 images
MAX_DISTANCE = 32  # bits of 128 that may differ; cropping by 3 % on every side changes up to 30
MAX_CANDIDATES, MIN_CANDIDATES = 8, 1000  # per image, in total: limits the time where all images look alike
_NUM_LEADING = 64  # bits by which hashes are sorted
_AT_ONCE = 2**16  # images; a multiple of 8


def find_candidates(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nearly all pairs of positions (first < second) whose hashes (N, 2) uint64 differ in few bits."""
    number = len(hashes)
    planes, generator = _bit_planes(hashes), np.random.default_rng(0)
    found = np.empty(0, np.int64)  # (distance, first, second) in one number each
    limit = max(MAX_CANDIDATES * number, MIN_CANDIDATES)
    for _ in range(NUM_ORDERS if number > 1 else 0):
        leading = _leading(planes, generator.permutation(len(planes))[:_NUM_LEADING], number)
        order = np.argsort(leading, kind="stable")
        found = np.unique(np.concatenate([found, *_neighbours(hashes, order)]))[:limit]  # the closest pairs first
    first, second = np.divmod(found, max(number, 1))
    return first % max(number, 1), second


def _bit_planes(hashes: np.ndarray) -> np.ndarray:
    """Return (128, N / 8) uint8: each bit of all hashes, packed."""
    parts = [np.empty((8 * hashes.itemsize * hashes.shape[1], 0), np.uint8)]
    for first in range(0, len(hashes), _AT_ONCE):
        bits = np.unpackbits(hashes[first : first + _AT_ONCE].view(np.uint8), axis=1)
        parts.append(np.packbits(np.ascontiguousarray(bits.T), axis=1))
    return np.concatenate(parts, axis=1)


def _leading(planes: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    """Return a number (N,) uint64 for each image, of its bits `chosen` (64,) in this order."""
    leading = np.empty(8 * planes.shape[1], np.uint64)
    for first in range(0, planes.shape[1], _AT_ONCE // 8):
        bits = np.unpackbits(planes[chosen, first : first + _AT_ONCE // 8], axis=1)
        packed = np.ascontiguousarray(np.packbits(bits, axis=0).T)
        leading[8 * first : 8 * first + len(packed)] = packed.view(np.uint64)[:, 0]
    return leading[:number]


def _neighbours(hashes: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (distance, first, second), in one number each, of the images that are neighbours in `order` and alike."""
    number = len(order)
    for start in range(0, number, _AT_ONCE):
        window = order[start : start + _AT_ONCE + NUM_NEIGHBOURS]
        ordered = hashes[window]
        for step in range(1, NUM_NEIGHBOURS + 1):
            last = min(_AT_ONCE, len(window) - step)  # the others are the first of the next block
            differing = _count_bits(ordered[step : step + last] ^ ordered[: max(0, last)])
            distance = (differing[:, 0] + differing[:, 1]).astype(np.int64)
            near = np.flatnonzero(distance <= MAX_DISTANCE)
            one, other = window[near], window[near + step]
            yield (distance[near] * number + np.minimum(one, other)) * number + np.maximum(one, other)


def _count_bits(numbers: np.ndarray) -> np.ndarray:
    """Return the number of bits set in each uint64, like `np.bitwise_count`, which requires NumPy 2.0."""
    pairs, nibbles, bytes_ = (np.uint64(0x0101010101010101 * byte) for byte in (0x55, 0x33, 0x0F))
    numbers = numbers - ((numbers >> np.uint64(1)) & pairs)
    numbers = (numbers & nibbles) + ((numbers >> np.uint64(2)) & nibbles)
    return ((numbers + (numbers >> np.uint64(4))) & bytes_) * np.uint64(0x0101010101010101) >> np.uint64(56)
