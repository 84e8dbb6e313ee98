"""Copies of files in one folder per class: the originals stay, nothing there before is replaced."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from MLPipeline.Errors import UsageError
from MLPipeline.files.AtomicFile import unwritable

UNSURE = "_unsure"
_MAX_BYTES = 100  # of a folder's name; file systems take 255
# What leads elsewhere or is refused by Windows, macOS or a shell; C0 and DEL among it.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows


class SortedCopies:
    """`root/<class>/` for each of `classes`, and `root/_unsure/`; folders are made when their first file comes.

    Raises:
        UsageError: a folder lies inside one of the `protected` folders, whose files are not ours to add to.
    """

    def __init__(self, root: Path, classes: Sequence[str], protected: Sequence[Path]) -> None:
        self.folders = {name: root / folder for name, folder in zip(classes, folder_names(classes), strict=True)}
        self.unsure = root / UNSURE
        for folder in (root, self.unsure, *self.folders.values()):
            for images in protected:
                if _real(folder).is_relative_to(_real(images)):
                    raise UsageError(
                        f"--sort-into {root}: {folder} lies inside {images}", "Give a folder outside of it"
                    )

    def add(self, path: Path, name: str | None) -> Path:
        """Return the copy of `path` in the folder of class `name`, `_unsure/` for None.

        Where another file has its name already it gets a number: `cat-2.jpg`.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        folder = self.unsure if name is None else self.folders[name]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source:
                for number in itertools.count(1):
                    copy = folder / (path.name if number == 1 else f"{path.stem}-{number}{path.suffix}")
                    try:
                        target = copy.open("xb")  # never an older file
                    except FileExistsError:
                        continue
                    break
                try:
                    with target:
                        shutil.copyfileobj(source, target)
                except BaseException:
                    copy.unlink()  # half a copy is none
                    raise
        except OSError as error:
            raise unwritable(folder / path.name, error) from error
        return copy


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class, all different on any file system, none leading out of its parent.

    Class names may come from anybody's checkpoint: `../../x` becomes `_.._x`.
    """
    taken, names = {UNSURE}, []
    for each in classes:
        short = _UNSAFE.sub("_", each).strip(". ").encode("utf-8", "ignore")[:_MAX_BYTES]
        plain = short.decode("utf-8", "ignore").rstrip(". ") or "_"
        plain = f"{plain}_" if _RESERVED.fullmatch(plain) else plain
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        name = next(name for name in numbered if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, never raises
