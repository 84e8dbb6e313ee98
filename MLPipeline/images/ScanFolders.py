"""Folders -> index: all images with their class and split; no image is opened yet.

Accepts `root/<class>/...` and `root/<train|val|test>/<class>/...`. Hidden and system files are ignored; all other files
that are left out are listed with the reason.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shlex
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.Errors import DataError, did_you_mean
from MLPipeline.files.ErrnoHints import unreadable
from MLPipeline.images.ClassNames import check_names, class_name, twins
from MLPipeline.images.ImageWalk import ImageWalk, Skipped, count_reasons, natural_order, visible
from MLPipeline.images.SplitFolders import EXPECTED_LAYOUT, Layout, find_layout

TRAIN, VAL, TEST, UNSPLIT = 0, 1, 2, -1
SPLITS = ("train", "val", "test")
_MAX_NOTES = 5  # of classes without images

_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gap:
    """A class without images in a split that has images of other classes."""

    split: int
    name: str  # of the class
    cause: str

    def to_text(self) -> str:
        """Return `no test images of class cat: it has only 2 images`."""
        return f"no {SPLITS[self.split]} images of class {self.name}: {self.cause}"


@dataclass(frozen=True)
class ImageIndex:
    """All images of a data folder, packed into arrays, so that a million images need no Python object each.

    `labels` (N,) int32: positions in `classes`; `splits` (N,) int8: 0 train, 1 val, 2 test, -1 not split yet;
    `groups` (N,) int32 from a label table: images with the same number stay in one split, -1 is not in a group; after
    the split also those of copies;
    `gaps`: the classes of which a split has no images.
    """

    root: Path
    classes: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    skipped: tuple[Skipped, ...]
    _names: bytes | memoryview = field(repr=False)  # relative paths, concatenated, as spelled in the file system
    _ends: np.ndarray = field(repr=False)  # (N,) int64
    groups: np.ndarray | None = None
    gaps: tuple[Gap, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with the names as an array: of arrays, `once_per_machine` makes no copies."""
        return self.__dict__ | {"_names": np.frombuffer(self._names, np.uint8)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _names=memoryview(state["_names"]))

    @property
    def identity(self) -> str:
        """A hash of the paths, classes, splits and groups of the images."""
        state = hashlib.blake2b("\0".join(self.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        for part in (self.labels, self.splits, self._names, self._ends, self.groups):
            if part is not None:
                state.update(part.data if isinstance(part, np.ndarray) else part)
        return state.hexdigest()

    def name(self, position: int) -> str:
        """Return the path relative to the root; bytes that are not valid UTF-8 are kept as surrogates."""
        start = int(self._ends[position - 1]) if position else 0
        return os.fsdecode(bytes(self._names[start : int(self._ends[position])]))

    def path(self, position: int) -> Path:
        """Return the path of one image."""
        return self.root / self.name(position)

    def positions(self, split: int) -> np.ndarray:
        """Return the positions (M,) int64 of the images of `split`, ascending."""
        return np.flatnonzero(self.splits == split)

    def without(self, positions: np.ndarray, reason: str) -> ImageIndex:
        """Return the index without the images at `positions`, which are added to those skipped with this `reason`."""
        if not len(positions):
            return self
        is_kept = np.ones(len(self), bool)
        is_kept[positions] = False
        names = [os.fsencode(self.name(position)) for position in np.flatnonzero(is_kept).tolist()]
        return replace(
            self,
            labels=self.labels[is_kept],
            splits=self.splits[is_kept],
            groups=None if self.groups is None else self.groups[is_kept],
            skipped=(*self.skipped, *(Skipped(self.name(position), reason) for position in positions.tolist())),
            _names=b"".join(names),
            _ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        )


def scan_folders(
    root: Path, follow_links: bool = False, classes: Sequence[str] = (), split_folders: str = "auto"
) -> ImageIndex:
    """Return the index of the images below `root`, classes and files in natural order.

    With `classes`, those of a trained model, folders are matched to them by name, and any subset of them is sufficient.
    `split_folders` determines whether folders named like splits are splits: `auto`, `yes` or `no` (see `find_layout`).

    Raises:
        DataError: the folder does not exist, or it contains no class folders, fewer than two classes with images, two
            spellings of one class, a class that is only in val or test, a class that is not in `classes`, or a folder
            that may be either a split or a class.
    """
    try:
        layout = find_layout(root, split_folders, classes)
        walk = ImageWalk(root, follow_links, [folder for _, folder in layout.class_folders])
        _skip_beside(layout, walk)
    except OSError as error:
        failure = unreadable(error.filename or root, error, "Give another --data")
        raise (DataError(failure.what, EXPECTED_LAYOUT) if error.errno in _NO_FOLDER else failure) from error
    found = [
        _Found(SPLITS.index(split) if split else UNSPLIT, folder, root, walk.images(folder))
        for split, folder in layout.class_folders
    ]
    if not any(each.lengths for each in found):
        what = count_reasons(walk.skipped)
        raise DataError(f"{root}: no class has images" + (f" (left out: {what})" if what else ""), EXPECTED_LAYOUT)
    classes = _known_classes(root, found, classes) if classes else _choose_classes(root, found)
    number = {class_name(name): label for label, name in enumerate(classes)}
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
        self.split, self.folder = split, folder
        self.name = class_name(os.fsencode(folder.name).decode("utf-8", "backslashreplace"))
        self.images = bytearray()  # their paths below `root`, concatenated
        self.lengths = array("i")
        start = len(os.fsencode(root / "x")) - 1  # length of the prefix that `root` adds, even if it is "." or "/"
        for image in images:
            name = os.fsencode(image)[start:]
            self.images += name
            self.lengths.append(len(name))


def _skip_beside(layout: Layout, walk: ImageWalk) -> None:
    """Skip files and folders next to split or class folders that are neither."""
    used = layout.around.union(folder for _, folder in layout.class_folders)
    for path in (path for folder in sorted(layout.around) for path in visible(folder)):
        if path in layout.unlabelled:
            walk.skip(path, "unlabelled images")
        elif path not in used:
            walk.skip(path, "not in a class folder")


def _choose_classes(root: Path, found: Sequence[_Found]) -> tuple[str, ...]:
    """Return the names of the classes that have training images, in natural order."""
    _check_spellings(root, found)
    trained = {each.name for each in found if each.split in (TRAIN, UNSPLIT) and each.lengths}
    for each in found:
        if each.lengths and each.name not in trained:
            raise DataError(
                f"{root}: class {each.name!r} is in {SPLITS[each.split]} but has no training images",
                "Add some, or move the folder away",
            )
    empty = [each.name for each in found if not each.lengths and each.split in (TRAIN, UNSPLIT)]
    for name in empty[:_MAX_NOTES]:
        logger.warning("class %r has no images and is left out", name)
    if len(empty) > _MAX_NOTES:
        logger.warning("%d more classes have no images and are left out", len(empty) - _MAX_NOTES)
    if len(trained) < 2:
        what = f"{root}: only the class {next(iter(trained))!r} has images, and two are needed"
        only = found[0].folder
        is_wrapped = len(found) == 1 and any(os.path.isdir(path) for path in visible(only))
        raise DataError(
            what, f"For the folders inside it, use --data {shlex.quote(str(only))}" if is_wrapped else EXPECTED_LAYOUT
        )
    return tuple(sorted(trained, key=natural_order))


def _check_spellings(root: Path, found: Sequence[_Found]) -> None:
    """Check that the class folders of a split have visibly different names, and that all splits spell them the same.

    Between splits, accents may be composed or decomposed: archives from different systems differ in this.
    """
    raw: dict[tuple[int, str], str] = {}
    for each in found:
        twin = raw.setdefault((each.split, each.name), each.folder.name)
        if twin != each.folder.name:
            raise twins(str(root), twin, each.folder.name)
    check_names(str(root), dict.fromkeys(each.name for each in found))


def _known_classes(root: Path, found: Sequence[_Found], classes: Sequence[str]) -> Sequence[str]:
    known = {class_name(name) for name in classes}
    for each in found:
        if each.lengths and each.name not in known:
            raise DataError(f"{root}: the model knows no class {each.name!r}", did_you_mean(each.name, classes))
    return classes


def folder_overview(root: Path) -> list[str]:
    """Return one line per class of `root` with its number of images, or the reason why `root` cannot be used."""
    try:
        index = scan_folders(root)
    except DataError as error:
        return [str(error)]
    counts = np.bincount(index.labels, minlength=len(index.classes))
    width = max(len(name) for name in index.classes)
    lines = [f"{root}: {len(index)} images in {len(index.classes)} classes"]
    return lines + [f"  {name:{width}}  {count:6d}" for name, count in zip(index.classes, counts, strict=True)]
