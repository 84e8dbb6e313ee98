"""Folders -> index: which images there are, of which class, in which split; nothing is opened yet.

Accepts `root/<class>/...` and `root/<train|val|test>/<class>/...`. Hidden and system files are ignored; whatever else
is left out is listed with the reason.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from MLPipeline.Errors import DataError, did_you_mean
from MLPipeline.images.ReadImage import FOREIGN_SUFFIXES, IMAGE_SUFFIXES

TRAIN, VAL, TEST, UNSPLIT = 0, 1, 2, -1
SPLITS = ("train", "val", "test")
_SPLIT_OF = {
    **dict.fromkeys(("train", "training", "training_data"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validation_data"), VAL),
    **dict.fromkeys(("test", "testing", "testing_data"), TEST),
}
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}

EXPECTED_LAYOUT = "Expected one folder per class, as in Data/cat/1.jpg and Data/dog/2.jpg"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: str  # relative to the data root
    reason: str


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
    split_folders = _find_split_folders(root)
    scan = ImageWalk(root, follow_links)
    found: list[tuple[int, str, list[bytes]]] = []
    for split, folder in split_folders:
        class_folders = _class_folders(folder)
        _refuse_loose_images(folder, class_folders, scan)
        for name in class_folders:
            images = [os.fsencode(image.relative_to(root)) for image in scan.images(folder / name)]
            found.append((split, os.fsencode(name).decode("utf-8", "backslashreplace"), images))
    classes = _known_classes(root, found, classes) if classes else _choose_classes(root, found)
    number = {name: label for label, name in enumerate(classes)}
    kept = [(split, number[name], image) for split, name, images in found if name in number for image in images]
    return ImageIndex(
        root=root,
        classes=tuple(classes),
        labels=np.array([label for _, label, _ in kept], dtype=np.int32),
        splits=np.array([split for split, _, _ in kept], dtype=np.int8),
        skipped=tuple(scan.skipped),
        _names=b"".join(image for _, _, image in kept),
        _ends=np.cumsum([len(image) for _, _, image in kept], dtype=np.int64),
    )


def natural_order(name: str) -> tuple:
    """Return a sort key that puts `img2` before `img10` and ignores case."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts], name


def is_junk(name: str) -> bool:
    """Return whether a file or folder is the system's, not the user's: hidden, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.casefold() in _JUNK


def _find_split_folders(root: Path) -> list[tuple[int, Path]]:
    try:
        folders = [each.name for each in os.scandir(root) if not is_junk(each.name) and each.is_dir()]
    except NotADirectoryError as error:
        raise DataError(f"{root}: is a file, not a folder", EXPECTED_LAYOUT) from error
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error.strerror})", EXPECTED_LAYOUT) from error
    spelt: dict[int, list[str]] = {}
    for name in sorted(folders):
        if name.casefold() in _SPLIT_OF:
            spelt.setdefault(_SPLIT_OF[name.casefold()], []).append(name)
    if TRAIN not in spelt:
        return [(UNSPLIT, root)]
    for names in spelt.values():
        if len(names) > 1:
            raise DataError(f"{root}: {' and '.join(names)} are the same split", "Keep one of them")
    for name in sorted(set(folders) - {name for names in spelt.values() for name in names}):
        logger.warning("%s lies beside the split folders and is not used", root / name)
    return [(split, root / names[0]) for split, names in sorted(spelt.items())]


def _class_folders(folder: Path) -> list[str]:
    names = [each.name for each in os.scandir(folder) if not is_junk(each.name) and each.is_dir()]
    return sorted(names, key=natural_order)


def _refuse_loose_images(folder: Path, class_folders: Sequence[str], scan: ImageWalk) -> None:
    loose = [
        e.name for e in os.scandir(folder) if Path(e.name).suffix.lower() in IMAGE_SUFFIXES and not is_junk(e.name)
    ]
    if not class_folders:
        what = f"{len(loose)} images but no class folders" if loose else "no class folders"
        raise DataError(f"{folder}: {what}", EXPECTED_LAYOUT)
    for name in sorted(loose, key=natural_order):
        scan.skip(folder / name, "not in a class folder")


def _choose_classes(root: Path, found: list[tuple[int, str, list[bytes]]]) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for _, name, _ in found:
        twin = spellings.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if twin != name:
            raise DataError(f"{root}: the classes {twin!r} and {name!r} differ only in spelling", "Rename or merge one")
    trained = {name for split, name, images in found if split in (TRAIN, UNSPLIT) and images}
    for split, name, images in found:
        if not images and split in (TRAIN, UNSPLIT):
            logger.warning("class %r has no images and is left out", name)
        if images and name not in trained:
            raise DataError(
                f"{root}: class {name!r} is in {SPLITS[split]} but has no training images",
                "Add some, or move the folder away",
            )
    if len(trained) < 2:
        only = f"only the class {next(iter(trained))!r} has images" if trained else "no class has images"
        inner = [name for _, name, _ in found]
        mend = f"For the folders inside it, say --data {root / inner[0]}" if len(inner) == 1 else EXPECTED_LAYOUT
        raise DataError(f"{root}: {only}, and two are needed", mend)
    return tuple(sorted(trained, key=natural_order))


def _known_classes(root: Path, found: list[tuple[int, str, list[bytes]]], classes: Sequence[str]) -> Sequence[str]:
    for _, name, images in found:
        if images and name not in classes:
            raise DataError(f"{root}: the model knows no class {name!r}", did_you_mean(name, classes))
    if not any(images for _, _, images in found):
        raise DataError(f"{root}: no class has images", EXPECTED_LAYOUT)
    return classes


class ImageWalk:
    """One walk below `root`: remembers the folders seen (links may loop) and what it left out."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root = root
        self.real_root = root.resolve()
        self.follow_links = follow_links
        self.skipped: list[Skipped] = []
        self._seen: set[tuple[int, int]] = set()

    def images(self, folder: Path) -> Iterator[Path]:
        """Yield the image files below `folder` in natural order."""
        try:
            status = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: natural_order(entry.name))
        except OSError as error:
            self.skip(folder, f"cannot be read ({error.strerror})")
            return
        if (status.st_dev, status.st_ino) in self._seen or not self._inside(folder):
            self.skip(folder, "linked again" if self._inside(folder) else "link leads out of the data folder")
            return
        self._seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = folder / entry.name
            if is_junk(entry.name):
                continue
            if path.is_dir():  # False, not an error, for a link that points to itself
                yield from self.images(path)
            elif reason := self._refuse(path, entry):
                self.skip(path, reason)
            else:
                yield path

    def _refuse(self, path: Path, entry: os.DirEntry[str]) -> str:
        suffix = path.suffix.lower()
        if suffix in FOREIGN_SUFFIXES:
            return f"{suffix[1:].upper()}: convert to JPEG or PNG"
        if suffix not in IMAGE_SUFFIXES:
            return f"not an image file ({suffix or 'no suffix'})"
        try:
            if not stat.S_ISREG(entry.stat().st_mode):
                return "not a regular file"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if not entry.is_symlink() or self._inside(path) else "link leads out of the data folder"

    def _inside(self, path: Path) -> bool:
        return self.follow_links or path.resolve().is_relative_to(self.real_root)

    def skip(self, path: Path, reason: str) -> None:
        """Remember that `path` is not used."""
        self.skipped.append(Skipped(os.path.relpath(path, self.root), reason))


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
