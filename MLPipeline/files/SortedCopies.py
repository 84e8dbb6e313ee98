"""Copies files into one folder per class; the originals are kept, and no existing file is overwritten."""

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
_MAX_BYTES = 100  # of a folder name; file systems allow 255
# Characters that separate paths, or that Windows, macOS or shells do not allow, with all control characters.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names on Windows


class SortedCopies:
    """The folders `root/<class>/` for each of `classes`, and `root/_unsure/`; each is created with its first file.

    Raises:
        UsageError: a folder lies inside one of the `protected` folders, to which no files may be added.
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
        """Copy `path` into the folder of class `name`, or into `_unsure/` if it is None; return the path of the copy.

        If a file of that name exists already, a number is appended: `cat-2.jpg`.

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
                        target = copy.open("xb")  # never overwrites a file
                    except FileExistsError:
                        continue
                    break
                try:
                    with target:
                        shutil.copyfileobj(source, target)
                except BaseException:
                    copy.unlink()  # leave no incomplete copy
                    raise
        except OSError as error:
            raise unwritable(folder / path.name, error) from error
        return copy


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class: distinct on any file system, and always inside the parent folder.

    Class names may come from an untrusted checkpoint: `../../x` becomes `_.._x`.
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
