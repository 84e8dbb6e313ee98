"""Folders -> index: which images there are, of which class, in which split; nothing is opened yet.

Accepts `root/<class>/...` and `root/<train|val|test>/<class>/...`. Hidden and system files are ignored; whatever else
is left out is listed with the reason.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from MLPipeline.Errors import DataError, did_you_mean
from MLPipeline.images.ImageWalk import ImageWalk, Skipped, count_reasons, natural_order, visible
from MLPipeline.images.ReadImage import IMAGE_SUFFIXES

TRAIN, VAL, TEST, UNSPLIT = 0, 1, 2, -1
SPLITS = ("train", "val", "test")
_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "training_data"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validation_data"), VAL),
    **dict.fromkeys(("test", "testing", "testing_data"), TEST),
}
EXPECTED_LAYOUT = "Expected one folder per class, as in Data/cat/1.jpg and Data/dog/2.jpg"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageIndex:
    """All images of a data folder, packed: a million cost no Python object each.

    `labels` (N,) int32 positions in `classes`; `splits` (N,) int8: 0 train, 1 val, 2 test, -1 not split yet.
    """

    root: Path
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[Skipped, ...]
    _names: bytes = field(repr=False)  # relative paths, one after the other, as the file system spells them
    _ends: np.ndarray = field(repr=False)  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identity(self) -> str:
        """A hash of which images there are, of which classes, in which splits."""
        state = hashlib.blake2b("\0".join(self.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        for part in (self.labels, self.splits, self._names, self._ends):
            state.update(bytes(part))
        return state.hexdigest()

    def name(self, position: int) -> str:
        """Return the path relative to the root; bytes that are no UTF-8 are kept as surrogates."""
        start = int(self._ends[position - 1]) if position else 0
        return os.fsdecode(self._names[start : int(self._ends[position])])

    def path(self, position: int) -> Path:
        """Return the path of one image."""
        return self.root / self.name(position)

    def positions(self, split: int) -> np.ndarray:
        """Return the positions (M,) int64 of the images of `split`, ascending."""
        return np.flatnonzero(self.splits == split)


def scan_folders(root: Path, follow_links: bool = False, classes: Sequence[str] = ()) -> ImageIndex:
    """Return the index of the images below `root`, classes and files in natural order.

    With `classes`, those of a trained model, folders are matched to them by name, and any number of them is enough.

    Raises:
        DataError: no such folder, no class folders, fewer than two classes with images, two spellings of one class,
            a class that only val or test has, or one that is not among `classes`.
    """
    try:
        class_folders = _class_folders(root, is_training=not classes)
        walk = ImageWalk(root, follow_links, [folder for _, folder in class_folders])
        _skip_beside(class_folders, walk)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})", EXPECTED_LAYOUT) from error
    found = [_Found(split, folder, root, walk.images(folder)) for split, folder in class_folders]
    if not any(each.lengths for each in found):
        what = count_reasons(walk.skipped)
        raise DataError(f"{root}: no class has images" + (f" (left out: {what})" if what else ""), EXPECTED_LAYOUT)
    classes = _known_classes(root, found, classes) if classes else _choose_classes(root, found, class_folders)
    number = {name: label for label, name in enumerate(classes)}
    kept = [each for each in found if each.name in number]
    sizes = [len(each.lengths) for each in kept]
    return ImageIndex(
        root=root,
        classes=tuple(classes),
        labels=np.repeat(np.array([number[each.name] for each in kept], np.int32), sizes),
        splits=np.repeat(np.array([each.split for each in kept], np.int8), sizes),
        skipped=tuple(walk.skipped),
        _names=b"".join(each.images for each in kept),
        _ends=np.cumsum(np.concatenate([each.lengths for each in kept]), dtype=np.int64),
    )


class _Found:
    """The images of one class folder, packed."""

    def __init__(self, split: int, folder: Path, root: Path, images: Iterable[Path]) -> None:
        self.split = split
        self.name = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
        self.images = bytearray()  # their paths below `root`, one after the other
        self.lengths = array("i")
        start = len(os.fsencode(root / "x")) - 1  # of what `root` adds, be it "." or "/"
        for image in images:
            name = os.fsencode(image)[start:]
            self.images += name
            self.lengths.append(len(name))


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if os.path.isdir(path)]  # no error for a link that points to itself


def _class_folders(root: Path, is_training: bool) -> list[tuple[int, Path]]:
    """Return (split, folder) of every class folder, those of `train` first."""
    found = []
    for split, folder in _split_folders(root, is_training):
        folders = _folders(folder)
        if not folders:
            loose = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(folder))
            what = f"{loose} images but no class folders" if loose else "no class folders"
            renamed = "" if split == UNSPLIT else f"; if {folder.name!r} is itself a class, rename it"
            raise DataError(f"{folder}: {what}", EXPECTED_LAYOUT + renamed)
        found += [(split, each) for each in folders]
    return found


def _split_folders(root: Path, is_training: bool) -> list[tuple[int, Path]]:
    """Return (split, folder) of the split folders, train first; `root` itself, unsplit, where there are none."""
    splits: dict[int, Path] = {}
    others = []
    for folder in _folders(root):
        split = _SPLIT_OF.get(folder.name.casefold())
        if split is None:
            others.append(folder)
        elif splits.setdefault(split, folder) != folder:
            raise DataError(f"{root}: {splits[split].name} and {folder.name} are the same split", "Keep one of them")
    if not splits:
        return [(UNSPLIT, root)]
    if is_training and TRAIN not in splits:
        names = " and ".join(folder.name for folder in splits.values())
        raise DataError(f"{root}: {names} but no train", "Put the class folders to learn from into a folder `train`")
    for folder in others:
        logger.warning("%s lies beside the split folders and is not used", folder)
    return sorted(splits.items())


def _skip_beside(class_folders: Sequence[tuple[int, Path]], walk: ImageWalk) -> None:
    """List what lies in the root or in a split folder and is neither a split nor a class."""
    used = {folder for _, folder in class_folders}
    parents = dict.fromkeys([walk.root, *(folder.parent for _, folder in class_folders)])
    for path in (path for parent in parents for path in visible(parent)):
        if path not in used and path not in parents:
            walk.skip(path, "not in a class folder")


def _choose_classes(root: Path, found: Sequence[_Found], class_folders: Sequence[tuple[int, Path]]) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for each in found:
        twin = spellings.setdefault(unicodedata.normalize("NFC", each.name).casefold(), each.name)
        if twin != each.name:
            what = f"{root}: the classes {twin!r} and {each.name!r} differ only in spelling"
            raise DataError(what, "Rename or merge one")
    trained = {each.name for each in found if each.split in (TRAIN, UNSPLIT) and each.lengths}
    for each in found:
        if each.lengths and each.name not in trained:
            raise DataError(
                f"{root}: class {each.name!r} is in {SPLITS[each.split]} but has no training images",
                "Add some, or move the folder away",
            )
        if not each.lengths and each.split in (TRAIN, UNSPLIT):
            logger.warning("class %r has no images and is left out", each.name)
    if len(trained) < 2:
        what = f"{root}: only the class {next(iter(trained))!r} has images, and two are needed"
        only = class_folders[0][1]
        is_wrapped = len(class_folders) == 1 and _folders(only)
        raise DataError(
            what, f"For the folders inside it, say --data {shlex.quote(str(only))}" if is_wrapped else EXPECTED_LAYOUT
        )
    return tuple(sorted(trained, key=natural_order))


def _known_classes(root: Path, found: Sequence[_Found], classes: Sequence[str]) -> Sequence[str]:
    for each in found:
        if each.lengths and each.name not in classes:
            raise DataError(f"{root}: the model knows no class {each.name!r}", did_you_mean(each.name, classes))
    return classes


def folder_overview(root: Path) -> list[str]:
    """Return one line per class of `root` with its number of images; what is wrong with it where it cannot be used."""
    try:
        index = scan_folders(root)
    except DataError as error:
        return [str(error)]
    counts = np.bincount(index.labels, minlength=len(index.classes))
    width = max(len(name) for name in index.classes)
    lines = [f"{root}: {len(index)} images in {len(index.classes)} classes"]
    return lines + [f"  {name:{width}}  {count:6d}" for name, count in zip(index.classes, counts, strict=True)]
