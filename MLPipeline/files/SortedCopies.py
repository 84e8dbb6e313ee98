"""Copies files into one folder per class; the originals are kept, and no existing file is overwritten."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.Destination import Reserved
from MLPipeline.files.FileNames import longest_name, numbered_name, shorten, visible_name

UNSURE = "_unsure"
_MAX_BYTES = 100  # of a folder name; file systems allow 255
# Characters that separate paths, or that Windows, macOS or shells do not allow.
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names on Windows


class SortedCopies:
    """The folders `root/<class>/` for each of `classes`, and `root/_unsure/`; each is created with its first file.

    Raises:
        UsageError: a folder lies inside the `reserved` places, is a file, or is a link that leads nowhere.
    """

    def __init__(self, root: Path, classes: Sequence[str], reserved: Reserved, flag: str = "--sort-into") -> None:
        self.folders = {name: root / folder for name, folder in zip(classes, folder_names(classes), strict=True)}
        self.unsure = root / UNSURE
        self._flag = flag  # which names `root`, for messages
        self._numbers: dict[Path, int] = {}  # the last number that each name was given, where several files share it
        for folder in (root, self.unsure, *self.folders.values()):
            reserved.check_folder(flag, folder)

    def add(self, path: Path, name: str | None) -> Path:
        """Copy `path` into the folder of class `name`, or into `_unsure/` if it is None; return the path of the copy.

        If a file of that name exists already, a number is appended: `cat-2.jpg`. A name that is too long for the file
        system is shortened; invisible characters in it become `_`.

        Raises:
            ResourceError: the disk is full or the folder cannot be written.
        """
        folder = self.unsure if name is None else self.folders[name]
        wanted = visible_name(path.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            max_bytes = longest_name(folder)
            with path.open("rb") as source:
                for number in itertools.count(self._numbers.get(folder / wanted, 1)):
                    copy = folder / numbered_name(wanted, number, max_bytes)
                    try:
                        target = copy.open("xb")  # never overwrites a file
                    except FileExistsError:
                        self._numbers[folder / wanted] = number + 1
                        continue
                    break
                try:
                    with target:
                        shutil.copyfileobj(source, target)
                except BaseException:
                    copy.unlink()  # leave no incomplete copy
                    raise
        except OSError as error:
            raise unwritable(folder / wanted, error, f"Give another {self._flag}") from error
        return copy


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class: distinct on any file system, and always inside the parent folder.

    Class names may come from an untrusted checkpoint: `../../x` becomes `_.._x`.
    """
    taken, names = {UNSURE}, []
    for each in classes:
        valid = _UNSAFE.sub("_", visible_name(each)).encode("utf-8", "ignore").decode()
        plain = shorten(valid.strip(". "), _MAX_BYTES).rstrip(". ") or "_"
        plain = f"{plain}_" if _RESERVED.fullmatch(plain) else plain
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        name = next(name for name in numbered if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names
