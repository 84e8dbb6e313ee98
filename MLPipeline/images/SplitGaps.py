"""The classes of which a split has no images, and why: nothing can be said about them there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import numpy as np

from MLPipeline.images.ClassNames import class_name
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, VAL, Gap, ImageIndex

_MAX_LINES = 10  # for each split


def find_gaps(
    before: ImageIndex, after: ImageIndex, groups: np.ndarray, copies: np.ndarray, pattern: str | None
) -> tuple[Gap, ...]:
    """Return the classes that the validation or the test split lacks, with the cause of each.

    Args:
        before: the index before it was split: only images in split folders are in a split.
        after: the same images, split; its `groups` are those that a label table states.
        groups: number of the group of each image (N,), -1 for unreadable ones: the images of a group stay together.
        copies: the same for near-duplicates alone, without `pattern` and without the groups of a table.
        pattern: the regular expression of `--group`.
    """
    gaps = []
    for split in (VAL, TEST):
        counts = np.bincount(after.labels[after.splits == split], minlength=len(after.classes))
        has_folder = bool((before.splits == split).any())
        for label in np.flatnonzero(counts == 0).tolist() if counts.any() else ():
            members = np.flatnonzero((after.labels == label) & (groups >= 0))
            in_folder = f"the {SPLITS[split]} folder has no readable image of it"
            cause = in_folder if has_folder else _cause(after, members, groups, copies, pattern)
            gaps.append(Gap(split, after.classes[label], cause))
    return tuple(gaps)


def gap_lines(gaps: Sequence[Gap]) -> list[str]:
    """Return a line for each gap; where a split has many, the last line only counts the rest."""
    lines = []
    for split in (VAL, TEST):
        of_split = [gap for gap in gaps if gap.split == split]
        lines += [gap.to_text() for gap in of_split[:_MAX_LINES]]
        if rest := len(of_split) - _MAX_LINES if len(of_split) > _MAX_LINES else 0:
            lines.append(f"no {SPLITS[split]} images of {rest:,} more classes")
    return lines


def _cause(index: ImageIndex, members: np.ndarray, groups: np.ndarray, copies: np.ndarray, pattern: str | None) -> str:
    """Return why too few of the images at `members`, all of one class, could be set aside."""
    number = len(members)
    num_groups, num_distinct = (len(np.unique(each[members])) for each in (groups, copies))
    if num_groups < num_distinct:
        groups_of = "one group" if num_groups == 1 else f"{num_groups} groups"
        example = "" if pattern is None else _example(index, members, pattern)
        return f"{_grouped_by(index, pattern)} its {number} images into {groups_of}{example}"
    if num_distinct < number:
        one = f"its {number} images are near-duplicates of each other"
        several = f"its {number} images make only {num_distinct} groups of near-duplicates"
        return f"{one if num_distinct == 1 else several}, and near-duplicates stay in one split"
    trained = members[index.splits[members] == TRAIN]
    if len(trained) < 2:
        return f"it has only {number} image{'s' * (number != 1)}"
    if np.isin(groups[index.labels != index.labels[members[0]]], groups[trained]).any():
        return "its training images are in groups with images of other classes, and a group stays in one split"
    kept = f"its {len(trained)} training images keep the split that an earlier run gave them"
    return f"{kept}; another --seed divides all images again"


def _grouped_by(index: ImageIndex, pattern: str | None) -> str:
    """Return what puts images into groups besides that they are near-duplicates, with its verb."""
    table = "the column group of the table"
    if pattern is None:
        return f"{table} puts"
    return f"--group {shlex.quote(pattern)} " + ("puts" if index.groups is None else f"and {table} put")


def _example(index: ImageIndex, members: Sequence[int] | np.ndarray, pattern: str) -> str:
    """Return what the expression finds in the path of the first image that it matches: often not what was meant."""
    expression = re.compile(class_name(pattern))
    for position in members:
        name = class_name(index.name(int(position)))
        if match := expression.search(name):
            return f" (in {name} it finds {match[1 if expression.groups else 0]!r})"
    return ""
