"""An order of the training images of which every beginning is a stratified sample; copies stay together.

N images.
"""

from __future__ import annotations

import numpy as np


def stratified_order(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions (N,) int64 of the images in an order drawn with `seed`.

    Each class is spread evenly over the order, so its share of every beginning is that of the whole. Images of one
    group follow one another.

    Args:
        labels: the class of each image, (N,).
        groups: the group of each image, (N,); that of copies is the same.
        seed: of the order inside the classes.
    """
    _, first, member_of = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    classes = labels[first][shuffled]
    place = np.empty(len(first))  # of each group in its class, 0 to 1
    for label in np.unique(classes):
        members = shuffled[classes == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    rank = np.empty(len(first), np.int64)
    rank[np.lexsort((shuffled, place))] = np.arange(len(first))
    return np.argsort(rank[member_of], kind="stable")


def beginning(order: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Return the first `number` positions of an `order` (N,), with the rest of the last group, ascending.

    Args:
        order: see `stratified_order`.
        groups: of the images in this order, (N,).
        number: 1 or more.
    """
    end = min(number, len(order))
    while end < len(order) and groups[end] == groups[end - 1]:
        end += 1
    return np.sort(order[:end])
