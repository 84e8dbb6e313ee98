"""Folders -> index: which images there are, of which class, in which split; nothing is opened yet.

Accepts `root/<class>/...` and `root/<train|val|test>/<class>/...`. Hidden and system files are ignored; whatever else
is left out is listed with the reason.
"""

from __future__ import annotations

import logging
import os
import shlex
import unicodedata
from collections.abc import Sequence
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
    found: list[tuple[int, str, list[bytes]]] = []
    for split, folder in class_folders:
        images = [os.fsencode(image.relative_to(root)) for image in walk.images(folder)]
        found.append((split, os.fsencode(folder.name).decode("utf-8", "backslashreplace"), images))
    if not any(images for _, _, images in found):
        what = count_reasons(walk.skipped)
        raise DataError(f"{root}: no class has images" + (f" (left out: {what})" if what else ""), EXPECTED_LAYOUT)
    classes = _known_classes(root, found, classes) if classes else _choose_classes(root, found, class_folders)
    number = {name: label for label, name in enumerate(classes)}
    kept = [(split, number[name], image) for split, name, images in found if name in number for image in images]
    return ImageIndex(
        root=root,
        classes=tuple(classes),
        labels=np.array([label for _, label, _ in kept], dtype=np.int32),
        splits=np.array([split for split, _, _ in kept], dtype=np.int8),
        skipped=tuple(walk.skipped),
        _names=b"".join(image for _, _, image in kept),
        _ends=np.cumsum([len(image) for _, _, image in kept], dtype=np.int64),
    )


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


def _choose_classes(
    root: Path, found: Sequence[tuple[int, str, list[bytes]]], class_folders: Sequence[tuple[int, Path]]
) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for _, name, _ in found:
        twin = spellings.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise DataError(f"{root}: the classes {twin!r} and {name!r} differ only in spelling", "Rename or merge one")
    trained = {name for split, name, images in found if split in (TRAIN, UNSPLIT) and images}
    for split, name, images in found:
        if images and name not in trained:
            raise DataError(
                f"{root}: class {name!r} is in {SPLITS[split]} but has no training images",
                "Add some, or move the folder away",
            )
        if not images and split in (TRAIN, UNSPLIT):
            logger.warning("class %r has no images and is left out", name)
    if len(trained) < 2:
        what = f"{root}: only the class {next(iter(trained))!r} has images, and two are needed"
        only = class_folders[0][1]
        is_wrapped = len(class_folders) == 1 and _folders(only)
        raise DataError(
            what, f"For the folders inside it, say --data {shlex.quote(str(only))}" if is_wrapped else EXPECTED_LAYOUT
        )
    return tuple(sorted(trained, key=natural_order))


def _known_classes(root: Path, found: Sequence[tuple[int, str, list[bytes]]], classes: Sequence[str]) -> Sequence[str]:
    for _, name, images in found:
        if images and name not in classes:
            raise DataError(f"{root}: the model knows no class {name!r}", did_you_mean(name, classes))
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
