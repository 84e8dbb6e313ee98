"""Indexes without files, and summaries of their splits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex


def index_of(*counts: int, splits: tuple[int, ...] = (UNSPLIT,)) -> ImageIndex:
    """Return an index of classes a, b, ... with `counts` images each in every one of `splits`."""
    return index_from(
        [
            (split, label, f"{split}/{chr(97 + label)}/{number}.jpg")
            for split in splits
            for label, count in enumerate(counts)
            for number in range(count)
        ],
        len(counts),
    )


def index_from(files: list[tuple[int, int, str]], num_classes: int) -> ImageIndex:
    """Return an index of `files`, given as (split, label, name)."""
    names = [os.fsencode(name) for _, _, name in files]
    return ImageIndex(
        root=Path("Data"),
        classes=tuple(chr(97 + label) for label in range(num_classes)),
        labels=np.array([label for _, label, _ in files], np.int32),
        splits=np.array([split for split, _, _ in files], np.int8),
        skipped=(),
        _names=b"".join(names),
        _ends=np.cumsum([len(name) for name in names], dtype=np.int64),
    )


def counts_of(index: ImageIndex) -> list[list[int]]:
    """Return the number of [train, val, test] images of each class."""
    number = len(index.classes)
    return np.stack(
        [np.bincount(index.labels[index.splits == s], minlength=number) for s in (TRAIN, VAL, TEST)], 1
    ).tolist()


def members(index: ImageIndex, split: int) -> set[str]:
    return {index.name(position) for position in index.positions(split).tolist()}


def sides_of(index: ImageIndex, groups: np.ndarray) -> list[set[int]]:
    """Return the splits in which each group has images."""
    return [set(index.splits[groups == group].tolist()) for group in np.unique(groups)]
