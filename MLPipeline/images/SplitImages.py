"""Index -> index with every image in a split: stratified by class, each group in a single split.

    record = split_record(cache, index.root, 0.15, 0.15, seed=0)
    index = split_images(index, 0.15, 0.15, seed=0, groups=groups, record=record)

The split of an image is drawn from the seed and its name, and recorded, so that old images keep their split when others
are added. Without the record nearly all do, but those at the boundary between two splits may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.files.Cache import RowStore, digest
from MLPipeline.files.OncePerMachine import once_per_machine
from MLPipeline.images.ClassNames import class_name
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, UNSPLIT, VAL, ImageIndex

_RECORDED_AT_ONCE = 2**18  # images: each takes 200 bytes meanwhile

logger = logging.getLogger(__name__)


def split_record(
    cache: Path, root: Path, val_fraction: float, test_fraction: float, seed: int, group: str | None = None
) -> RowStore:
    """Return the record of the splits of the images below `root`; there is one for each combination of arguments."""
    identity = f"{root.resolve()} {val_fraction} {test_fraction} {seed} {group}"
    return RowStore(cache, "splits", identity, (1,), np.dtype(np.int8))


def split_images(
    index: ImageIndex,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    groups: np.ndarray | None = None,
    record: RowStore | None = None,
) -> ImageIndex:
    """Return the index with every image in a split, stratified by class as far as the groups allow.

    Split folders are kept; a missing `val` or `test` split is taken from `train`. Every class keeps a training image.
    Images of one group, numbered in `groups` (N,), stay together; those of group -1 are in no split. Images in the
    `record` keep their split, and new images of their group are added to the same split. Only a group that the index
    itself states, and that the record has in several splits, is drawn again: its table has changed.

    Raises:
        DataError: a requested split is empty, or a class has no training image.
        ResourceError: the record cannot be written.
    """
    groups = np.arange(len(index)) if groups is None else groups
    shares = _missing_shares(index, {TEST: test_fraction, VAL: val_fraction})
    if record is None or not shares:
        splits, _ = _split(index, shares, seed, groups, None)
        return dataclasses.replace(index, splits=splits)
    with record.writing():
        splits, new = once_per_machine(lambda: _split(index, shares, seed, groups, record), record.folder.parent)
        for first in range(0, len(new) if ranks.is_first else 0, _RECORDED_AT_ONCE):
            some = new[first : first + _RECORDED_AT_ONCE]
            record.append(list(_keys(index, some)), splits[some, None])
    return dataclasses.replace(index, splits=splits)


def _split(
    index: ImageIndex, shares: Mapping[int, float], seed: int, groups: np.ndarray, record: RowStore | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the split (N,) int8 of each image, and the positions (M,) of those that are not in the `record`."""
    splits = np.where(index.splits == UNSPLIT, TRAIN, index.splits).astype(np.int8)
    before, splits[groups < 0] = splits.copy(), UNSPLIT
    free = np.flatnonzero(splits == TRAIN)
    old = _recall(index, free, record)
    if index.groups is not None:
        old = _without_divided(index.groups[free], old)
    splits[free] = _assign(index, free, groups[free], old, shares, seed)
    _require_training_images(index, before, splits)
    for split in shares:
        if not np.any(splits == split):
            raise _too_few(index, free, groups[free], split, len(shares) + 1, bool(np.any(old != UNSPLIT)))
    return splits, free[old == UNSPLIT]


def _too_few(
    index: ImageIndex, free: np.ndarray, groups: np.ndarray, split: int, num_splits: int, is_recorded: bool
) -> DataError:
    """Return the error for an empty `split`, with its cause.

    `groups` (M,) are those of the images at the positions `free` (M,), to be divided into `num_splits` splits;
    `is_recorded`: whether some of them have kept the split of an earlier run.
    """
    what, hint = f"{index.root}: too few images to take any for {SPLITS[split]}", f"use --{SPLITS[split]}-fraction 0"
    sizes = np.bincount(index.labels[free[groups >= 0]])
    num_small = int(((sizes > 0) & (sizes < num_splits)).sum())
    if num_small == np.count_nonzero(sizes) > 1:
        what += f": all {num_small:,} classes have fewer than {num_splits} images, and each split takes at least one"
        return DataError(what, f"Add images to the classes, or {hint}")
    num_groups = len(np.unique(groups))
    if num_groups == len(groups) and is_recorded:
        what += f": none of those that an earlier run had in {SPLITS[split]} is left, and the others keep their split"
        return DataError(what, f"Add images, give another --seed, which divides all images again, or {hint}")
    if num_groups == len(groups):
        return DataError(what, f"Add images, or {hint}")
    number = "one group" if num_groups == 1 else f"only {num_groups} groups"
    what += f": {len(groups)} images form {number} of near-duplicates, of --group or of a table"
    what += ", and a group stays in one split"
    return DataError(what, f"Run `audit` to see the near-duplicates, add other images, or {hint}")


def _missing_shares(index: ImageIndex, fractions: Mapping[int, float]) -> dict[int, float]:
    """Return the fractions of the splits that have no folder; warns if other splits have one."""
    given = set(np.unique(index.splits).tolist()) - {UNSPLIT}
    shares = {split: share for split, share in fractions.items() if share and split not in given}
    for split in shares if given else ():
        logger.warning("no images in a %s folder: %g %% of train taken", SPLITS[split], round(100 * shares[split], 2))
    return shares


def evenly(number: int, wanted: int) -> np.ndarray:
    """Return at most `wanted` of the positions from 0 to `number`, evenly spaced."""
    return np.unique(np.linspace(0, number - 1, min(number, wanted)).round().astype(np.int64))


def only(index: ImageIndex, positions: np.ndarray, split: int | None = None) -> ImageIndex:
    """Return the index with just the images at `positions` in a split: their own, or the one given."""
    splits = np.full(len(index), UNSPLIT, np.int8)
    splits[positions] = index.splits[positions] if split is None else split
    return dataclasses.replace(index, splits=splits)


def without(index: ImageIndex, positions: list[int]) -> ImageIndex:
    """Return the index with the images at `positions`, which cannot be read, in no split.

    Raises:
        DataError: a class has no training images left.
    """
    splits = index.splits.copy()
    splits[positions] = UNSPLIT
    _require_training_images(index, index.splits, splits)
    return dataclasses.replace(index, splits=splits)


def _require_training_images(index: ImageIndex, before: np.ndarray, splits: np.ndarray) -> None:
    had, has = (np.bincount(index.labels[each == TRAIN], minlength=len(index.classes)) for each in (before, splits))
    for label in np.flatnonzero((had > 0) & (has == 0)).tolist():
        what = f"{index.root}: class {index.classes[label]!r} has no readable training image"
        raise DataError(what, "Add some, or move the folder away")


def _keys(index: ImageIndex, positions: np.ndarray) -> Iterator[bytes]:
    return (digest(os.fsencode(class_name(index.name(position)))) for position in positions.tolist())


def _recall(index: ImageIndex, positions: np.ndarray, record: RowStore | None) -> np.ndarray:
    """Return the recorded split (M,) int8 of each image; UNSPLIT if it is not in the record."""
    if record is None:
        return np.full(len(positions), UNSPLIT, np.int8)
    numbers = np.array([-1 if (n := record.find(key)) is None else n for key in _keys(index, positions)], np.int64)
    return np.append(record.rows()[:, 0], np.int8(UNSPLIT))[numbers]


def _without_divided(stated: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return the recorded splits `old` (M,), UNSPLIT for the `stated` groups (M,) that they divide; notes how many."""
    numbers, group = np.unique(stated, return_inverse=True)
    is_in = np.zeros((len(numbers), len(SPLITS)), bool)
    is_in[group[old >= 0], old[old >= 0]] = True
    is_divided = (stated >= 0) & (is_in.sum(axis=1) > 1)[group]
    if number := int(np.count_nonzero(is_divided & (old >= 0))):
        logger.warning("%d images of groups that earlier runs had in several splits are split again", number)
    return np.where(is_divided, UNSPLIT, old).astype(np.int8)


def _assign(
    index: ImageIndex, free: np.ndarray, groups: np.ndarray, old: np.ndarray, shares: Mapping[int, float], seed: int
) -> np.ndarray:
    """Return the split (M,) of the images at the positions `free`, given their `groups` and recorded splits `old`."""
    old = np.where(np.isin(old, [TRAIN, *shares]), old, UNSPLIT)  # a recorded split may have its own folder by now
    labels, splits = index.labels[free], _extend_to_groups(groups, old)
    counts = _SplitCounts(labels, splits, shares, len(index.classes))
    if shares:
        _note_single_images(index, np.flatnonzero(np.bincount(labels) == 1))
    new = np.flatnonzero(splits == UNSPLIT)
    splits[new] = TRAIN
    numbers, number = np.unique(groups[new], return_inverse=True)
    draws = np.array([_draw(seed, class_name(index.name(first))) for first in numbers.tolist()], np.uint64)
    order = np.lexsort((number, draws[number]))
    new, number = new[order], number[order]
    for group in _runs(new, number):
        splits[group] = counts.place(Counter(labels[group].tolist()))
    for split, label in counts.without_any():  # all groups of the class were too large for its share
        fitting = [group for group in _runs(new, number) if splits[group[0]] == TRAIN and label in labels[group]]
        for group in sorted(fitting, key=len):
            if counts.take(Counter(labels[group].tolist()), split):
                splits[group] = split
                break
    return splits


def _note_single_images(index: ImageIndex, single: np.ndarray) -> None:
    """Note in one line which classes, `single` (M,), have only one image to split."""
    if not len(single):
        return
    first, use = index.classes[int(single[0])], "a single image to split: used for training only"
    if len(single) == 1:
        logger.warning("class %r has %s", first, use)
    else:
        logger.warning("%s classes, such as %r, have %s", f"{len(single):,}", first, use)


def _runs(values: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the runs of `values` whose `numbers` are equal."""
    ends = np.flatnonzero(np.diff(numbers, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        yield values[start:end]
        start = end


def _extend_to_groups(groups: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return `old` with each new image in the split that contains most of the old images of its group."""
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(groups), len(SPLITS)), np.int32)
    np.add.at(counts, (group[old >= 0], old[old >= 0]), 1)
    most = np.where(counts.any(axis=1), counts.argmax(axis=1), UNSPLIT)[group]
    return np.where(old >= 0, old, most).astype(np.int8)


class _SplitCounts:
    """The number of images of each class that are still missing from the splits, and that are left in train."""

    def __init__(self, labels: np.ndarray, splits: np.ndarray, shares: Mapping[int, float], num_classes: int) -> None:
        total = np.bincount(labels, minlength=num_classes)
        left = total.copy()
        self.quotas: dict[int, list[int]] = {}
        self.missing: dict[int, list[int]] = {}
        for split, share in shares.items():
            quota = np.clip(np.rint(share * total).astype(int), np.minimum(1, left - 1), left - 1)
            left -= quota
            self.quotas[split] = quota.tolist()
            self.missing[split] = (quota - np.bincount(labels[splits == split], minlength=num_classes)).tolist()
        self.left = np.bincount(labels[(splits == TRAIN) | (splits == UNSPLIT)], minlength=num_classes).tolist()

    def place(self, counts: Counter[int]) -> int:
        """Return the split for a group with these numbers of images per class.

        It is the first split that the group brings closer to its quotas; TRAIN if there is none.
        """
        for split, missing in self.missing.items():
            change = sum(abs(missing[label] - number) - abs(missing[label]) for label, number in counts.items())
            if change < 0 and self.take(counts, split):
                return split
        return TRAIN

    def take(self, counts: Counter[int], split: int) -> bool:
        """Return whether a group can be moved from train to `split`; if so, update the counts."""
        if any(self.left[label] <= number for label, number in counts.items()):
            return False
        for label, number in counts.items():
            self.left[label] -= number
            self.missing[split][label] -= number
        return True

    def without_any(self) -> list[tuple[int, int]]:
        """Return each (split, label) that has a quota but no images."""
        pairs = [(split, label) for split, quota in self.quotas.items() for label, number in enumerate(quota) if number]
        return [(split, label) for split, label in pairs if self.missing[split][label] == self.quotas[split][label]]


def _draw(seed: int, name: str) -> int:
    text = f"{seed}/{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
