"""What is wrong with a folder of images: the findings of an audit, each with all its examples and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from MLPipeline.audit.OddImages import find_odd_images
from MLPipeline.images.Duplicates import Pairs, find_conflicts, find_leaks
from MLPipeline.images.Fingerprint import ANIMATED, DEEP, GREY, KINDS, TRANSPARENT
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import SPLITS, ImageIndex

SMALL_CLASS, UNEQUAL = 20, 10  # images of a class; times those of the smallest that the largest may have


@dataclass(frozen=True)
class Example:
    """An image, two that belong together, or none, and what is to be said of them."""

    paths: tuple[str, ...]  # relative to the data folder
    text: str


@dataclass(frozen=True)
class Finding:
    """A kind of fault, and where it was found."""

    name: str  # as audit.csv calls it
    title: str
    is_serious: bool  # it makes the figures of a model wrong: --strict refuses it
    advice: str
    examples: tuple[Example, ...]  # all of them, the worst first


def find_faults(index: ImageIndex, inspection: Inspection, pairs: Pairs, groups: np.ndarray) -> list[Finding]:
    """Return what was found, the serious first; kinds of which there are none are left out.

    `pairs` show the same picture; `groups` (N,) are those of `group_images`.
    """
    usable = np.flatnonzero(inspection.is_readable)
    odd = [
        Finding(each.name, each.title, False, each.advice, _examples(index, usable[each.places], each.texts))
        for each in find_odd_images(inspection.prints[usable])
    ]
    unreadable = _files("unreadable", "Files that cannot be read", "Replace or delete them.", inspection.skipped(index))
    unusual = _files("unusual", "Used, but unusual", "Save them anew to be sure.", inspection.notes(index))
    left_out = _files("left-out", "Files that are not used", "Only images in a class folder are.", index.skipped)
    found = [replace(unreadable, is_serious=True), *_duplicates(index, pairs, groups), _small_classes(index), *odd]
    found += [unusual, left_out]
    return sorted((each for each in found if each.examples), key=lambda each: not each.is_serious)


def describe(index: ImageIndex, inspection: Inspection) -> dict[str, str]:
    """Return what the images are like, by name: their number, sizes, formats, colour, EXIF rotation."""
    prints = inspection.prints[inspection.is_readable]
    width, height = prints["width"], prints["height"]
    flags = {"grey": GREY, "with transparency": TRANSPARENT, "of more than 8 bits": DEEP, "of several frames": ANIMATED}
    colour = {name: int(((prints["flags"] & flag) > 0).sum()) for name, flag in flags.items()}
    kinds = Counter(KINDS[kind] for kind in prints["kind"].tolist())
    turned = int((prints["orientation"] > 1).sum())
    return {
        "Images": f"{len(index):,} in {len(index.classes)} classes",
        "Size": f"{np.median(width):.0f} x {np.median(height):.0f} pixels (median)",
        "Formats": ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common()),
        **({"Levels": "; ".join(lines)} if (lines := inspection.levels.lines()) else {}),
        "Colour": ", ".join(f"{number:,} {name}" for name, number in colour.items() if number) or "all in 8-bit colour",
        "Rotated by EXIF": f"{turned:,}, set upright here; other tools may not" if turned else "none",
    }


def _examples(index: ImageIndex, positions: np.ndarray, texts: Iterable[str]) -> tuple[Example, ...]:
    return tuple(Example((index.name(k),), text) for k, text in zip(positions.tolist(), texts, strict=True))


def _files(name: str, title: str, advice: str, files: Iterable[Skipped]) -> Finding:
    return Finding(name, title, False, advice, tuple(Example((each.path,), each.reason) for each in files))


def _duplicates(index: ImageIndex, pairs: Pairs, groups: np.ndarray) -> list[Finding]:
    is_conflict, leaks = find_conflicts(index, pairs), find_leaks(index, groups)
    is_harmless = ~is_conflict & (index.splits[pairs.first] == index.splits[pairs.second])

    def alike(chosen: np.ndarray, say: Callable[[int, int], str]) -> tuple[Example, ...]:
        order = np.flatnonzero(chosen)[np.argsort(-pairs.likeness[chosen], kind="stable")]
        return _pairs(index, np.stack([pairs.first[order], pairs.second[order]], axis=1), say)

    def classes(first: int, second: int) -> str:
        return f"{index.classes[index.labels[first]]} or {index.classes[index.labels[second]]}?"

    def splits(first: int, second: int) -> str:
        return f"in {SPLITS[index.splits[first]]} and {SPLITS[index.splits[second]]}"

    def label(first: int, _: int) -> str:
        return index.classes[index.labels[first]]

    right = "No classifier gets both right: correct one label, or delete the image."
    asked = "What was learnt by heart is asked again, so the figures come out too good: keep one of the two."
    apart = "They count double, and stay on one side of our split: delete what you do not need."
    copies, near = is_harmless & pairs.are_copies, is_harmless & ~pairs.are_copies
    return [
        Finding("conflict", "The same picture under two labels", True, right, alike(is_conflict, classes)),
        Finding("leak", "The same picture in two splits", True, asked, _pairs(index, leaks, splits)),
        Finding("copy", "The same file twice", False, apart, alike(copies, label)),
        Finding("near-duplicate", "Nearly the same picture", False, apart, alike(near, label)),
    ]


def _pairs(index: ImageIndex, pairs: np.ndarray, say: Callable[[int, int], str]) -> tuple[Example, ...]:
    return tuple(Example((index.name(one), index.name(other)), say(one, other)) for one, other in pairs.tolist())


def _small_classes(index: ImageIndex) -> Finding:
    counts = np.bincount(index.labels, minlength=len(index.classes))
    limit = max(SMALL_CLASS, counts.max() / UNEQUAL)
    small = [label for label in np.argsort(counts, kind="stable").tolist() if counts[label] < limit]
    advice = f"The largest class has {counts.max():,} images: add some, or train with --balance loss."
    examples = tuple(Example((), f"{index.classes[label]}: {counts[label]:,}") for label in small)
    return Finding("small-class", "Small classes", False, advice, examples)
