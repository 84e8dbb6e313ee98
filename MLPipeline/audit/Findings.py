"""What is wrong with a data set: the findings of an audit, each with all its examples and a hint what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from MLPipeline.audit.InProportion import PROPERTY_HINT, is_property, proportion, tally
from MLPipeline.audit.OddImages import Oddity, find_odd_images
from MLPipeline.images.Duplicates import Pairs, find_conflicts, find_leaks, group_images, split_groups
from MLPipeline.images.Fingerprint import ANIMATED, DEEP, GREY, KINDS, TRANSPARENT
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.Inspect import Inspection
from MLPipeline.images.ScanFolders import SPLITS, ImageIndex

VARIED = 1.8  # times the proportions (width by height) of one image are those of another, in 90 % of them
SMALL_CLASS, UNEQUAL = 20, 10  # images of a class; times those of the smallest that the largest may have


@dataclass(frozen=True)
class Example:
    """An image, a pair of images, or none, and a remark about it."""

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
    is_property: bool = False  # it holds for much of the set, which one example says

    @property
    def headline(self) -> str:
        """The title, with the number of examples where they are counted."""
        if self.is_property:
            return self.title
        number = f"{len(self.examples):,}"
        is_pair = bool(self.examples) and len(self.examples[0].paths) == 2
        return (
            f"{self.title}: {number} pair{'s' if len(self.examples) > 1 else ''}"
            if is_pair
            else f"{self.title}: {number}"
        )


def find_faults(index: ImageIndex, inspection: Inspection, pairs: Pairs, groups: np.ndarray) -> list[Finding]:
    """Return what was found, the serious first; kinds of which there are none are left out.

    `pairs` are copies of one picture; `groups` (N,) are those of `group_images`.
    """
    usable = np.flatnonzero(inspection.is_readable)
    odd = [_odd(index, usable, each) for each in find_odd_images(inspection.prints[usable])]
    unreadable = _files("unreadable", "Files that cannot be read", "Replace or delete them.", inspection.skipped(index))
    unusual = _unusual(inspection.notes(index), len(usable))
    left_out = _files("left-out", "Files that are not used", "Only images in a class folder are used.", index.skipped)
    copies = group_images(replace(index, groups=None), inspection, pairs)  # linked by their pixels alone
    found = [replace(unreadable, is_serious=True), *_duplicates(index, pairs, copies)]
    found += [_split_groups(index, find_leaks(index, groups), copies), _small_classes(index), *odd]
    found += [_proportions(inspection.prints[usable]), unusual, left_out]
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


def _odd(index: ImageIndex, usable: np.ndarray, oddity: Oddity) -> Finding:
    """Return the finding for one way to be odd; `usable` (N,) are the positions of the images that were looked at."""
    number, total = len(oddity.places), len(usable)
    if is_property(number, total):
        said = (Example((), f"{oddity.common}: {proportion(number, total)}"),)
        return Finding(oddity.name, oddity.title, False, PROPERTY_HINT, said, is_property=True)
    examples = _examples(index, usable[oddity.places], oddity.texts)
    return Finding(oddity.name, oddity.title, False, oddity.advice, examples)


def _unusual(notes: Sequence[Skipped], total: int) -> Finding:
    title = "Used, but unusual"
    if is_property(len(notes), total):
        lines = tally([note.reason for note in notes], total)
        return Finding(
            "unusual", title, False, PROPERTY_HINT, tuple(Example((), line) for line in lines), is_property=True
        )
    return _files("unusual", title, "Save them again as JPEG or PNG to be safe.", notes)


def _proportions(prints: np.ndarray) -> Finding:
    """Return whether images are distorted very differently when all of them are stretched to a square."""
    low, high = np.quantile(prints["width"] / prints["height"], (0.05, 0.95))
    text = f"width divided by height is {low:.2f} to {high:.2f} in 90 % of the images"
    advice = "Train with --fit pad, which shows the whole image undistorted, or --fit crop, which shows its centre."
    examples = (Example((), text),) if high > VARIED * low else ()
    return Finding("proportions", "Different proportions", False, advice, examples, is_property=True)


def _examples(index: ImageIndex, positions: np.ndarray, texts: Iterable[str]) -> tuple[Example, ...]:
    return tuple(Example((index.name(k),), text) for k, text in zip(positions.tolist(), texts, strict=True))


def _files(name: str, title: str, advice: str, files: Iterable[Skipped]) -> Finding:
    return Finding(name, title, False, advice, tuple(Example((each.path,), each.reason) for each in files))


def _split_groups(index: ImageIndex, leaks: np.ndarray, copies: np.ndarray) -> Finding:
    """Return which of the `leaks` (K, 2) are no copies: another image of their patient, say, is in another split."""
    leaks = leaks[copies[leaks[:, 0]] != copies[leaks[:, 1]]]
    examples = tuple(
        Example(
            (index.name(k),), f"in {SPLITS[index.splits[k]]}; {index.name(first)} is in {SPLITS[index.splits[first]]}"
        )
        for first, k in leaks.tolist()
    )
    advice = "The scores are too high where images of a group are alike: move all images of a group to one split."
    return Finding("group-leak", "Images whose group is in another split, too", True, advice, examples)


def _duplicates(index: ImageIndex, pairs: Pairs, groups: np.ndarray) -> list[Finding]:
    """Return what is wrong with copies; `groups` (N,) are those of copies of one picture."""
    is_conflict, leaks = find_conflicts(index, pairs), split_groups(index, groups)
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

    right = "One of the labels is wrong: correct it, or delete the image."
    asked = "The scores are too high, because the model has seen these images in training: keep one image of each pair."
    apart = (
        "They count twice in training and in every score. The split keeps them together; delete those you do not need."
    )
    copies, near = is_harmless & pairs.are_copies, is_harmless & ~pairs.are_copies
    return [
        Finding("conflict", "The same picture under two labels", True, right, alike(is_conflict, classes)),
        Finding("leak", "The same picture in two splits", True, asked, _pairs(index, leaks, splits)),
        Finding("copy", "The same file twice", False, apart, alike(copies, label)),
        Finding(
            "near-duplicate", "Near-duplicates", False, _about_near(pairs, near, len(index), apart), alike(near, label)
        ),
    ]


def _about_near(pairs: Pairs, chosen: np.ndarray, total: int, advice: str) -> str:
    """Return what to do about the `chosen` near-duplicates: nothing where the set consists of them, as video does."""
    number = len(np.unique(np.concatenate([pairs.first[chosen], pairs.second[chosen]])))
    if not is_property(number, total):
        return advice
    return (
        f"They make up {proportion(number, total)}, as in a set of video frames. Each split gets whole groups of them."
    )


def _pairs(index: ImageIndex, pairs: np.ndarray, say: Callable[[int, int], str]) -> tuple[Example, ...]:
    return tuple(Example((index.name(one), index.name(other)), say(one, other)) for one, other in pairs.tolist())


def _small_classes(index: ImageIndex) -> Finding:
    counts = np.bincount(index.labels, minlength=len(index.classes))
    limit = max(SMALL_CLASS, counts.max() / UNEQUAL)
    small = [label for label in np.argsort(counts, kind="stable").tolist() if counts[label] < limit]
    advice = f"The largest class has {counts.max():,} images: add some, or train with --balance loss."
    examples = tuple(Example((), f"{index.classes[label]}: {counts[label]:,}") for label in small)
    return Finding("small-class", "Small classes", False, advice, examples)
