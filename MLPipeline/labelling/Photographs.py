"""The photographs to label: where they lie, whether one has changed, and which order is random and always the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from MLPipeline.Errors import DataError
from MLPipeline.files.ErrnoHints import unreadable
from MLPipeline.images.ClassNames import class_name
from MLPipeline.images.ImageWalk import ImageWalk, Skipped, count_reasons
from MLPipeline.images.SplitNames import is_generic, split_of_name
from MLPipeline.labelling.LabelFile import Label

_SAMPLE_SHARE, _MAX_SAMPLE = 0.15, 400  # of all photographs


@dataclass(frozen=True)
class Photographs:
    """The image files below `root`, by number, in natural order of their paths."""

    root: Path
    names: tuple[str, ...]  # relative paths
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> Path:
        """Return the path of one photograph."""
        return self.root / self.names[number]

    def stamp(self, number: int) -> str:
        """Return what changes with the file and its content; empty if there is no such file any more.

        No two photographs share one. A page outlives its server, as does what the browser has cached, and the numbers
        of the next session may be those of other photographs, whose files may well have the same size and time.
        """
        path = self.path(number)
        try:
            status = os.stat(path)
        except OSError:
            return ""
        about = f"{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(path)
        return hashlib.blake2b(about, digest_size=8).hexdigest()

    def label_of_folder(self, number: int, classes: Collection[str]) -> Label | None:
        """Return the label of a photograph in `cat/` or `train/cat/` if `cat` is one of `classes`; otherwise None."""
        split, folder = _folders(self.names[number])
        return Label(class_name(folder), split or "train") if class_name(folder) in classes else None

    def class_folders(self) -> list[str]:
        """Return the names of the folders that seem to be classes: there are photographs beside them without one."""
        folders = dict.fromkeys(_folders(name)[1] for name in self.names)
        named = [class_name(folder) for folder in folders if folder and not is_generic(folder)]
        return named if len(named) < len(folders) else []

    def in_random_order(self) -> list[int]:
        """Return the numbers of all photographs in an order that depends on nothing but their paths."""
        return sorted(range(len(self)), key=lambda number: _hash(self.names[number]))

    def random_sample(self, classes: Collection[str]) -> list[int]:
        """Return the photographs among which the random sample is drawn, in the order in which they are drawn.

        They are not in a folder of a class, and never shown for another reason.
        """
        number = min(_MAX_SAMPLE, int(_SAMPLE_SHARE * len(self)))
        return [each for each in self.in_random_order() if not self.label_of_folder(each, classes)][:number]


def list_photographs(root: Path, follow_links: bool = False) -> Photographs:
    """Return the photographs below `root`; no file is opened.

    Raises:
        DataError: the folder cannot be listed, or there are no images.
    """
    walk = ImageWalk(root, follow_links)
    try:
        os.listdir(root)
    except OSError as error:
        raise unreadable(root, error, "Give a folder of photographs") from error
    start = len(str(root / "x")) - 1
    names = tuple(name[start:] for name in walk.names(root))
    if not names:
        left_out = f" (left out: {count_reasons(walk.skipped)})" if walk.skipped else ""
        raise DataError(f"{root}: no images there{left_out}", "Give a folder of photographs")
    return Photographs(root, names, tuple(walk.skipped))


def _folders(name: str) -> tuple[str, str]:
    """Return the split and the folder that `name` may have its class from; empty where there is none."""
    first, *others = PurePosixPath(name.replace(os.sep, "/")).parts[:-1] or ("",)
    split = split_of_name(first)
    return (split, others[0] if others else "") if split else ("", first)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
