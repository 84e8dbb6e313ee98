"""The image files that paths, folders and globs name, as a list or as an index without classes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MLPipeline.Errors import DataError
from MLPipeline.images.ImageWalk import ImageWalk, Skipped
from MLPipeline.images.ScanFolders import TRAIN, ImageIndex


def find_images(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[Path], list[Skipped]]:
    """Return the images in `paths`, each one once, and the files that were skipped.

    Paths are files, globs, or folders, which are searched recursively. Files that are given by name are used, whatever
    their suffix.

    Raises:
        DataError: a path does not exist, or there are no images.
    """
    found: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for path in paths:
        # os.path: unlike the methods of Path, it does not raise for names that are too long or unreadable.
        matches = [path] if os.path.exists(path) else _expand(path)
        if not matches:
            raise DataError(f"{path}: no such file or folder", "Give images, folders or quoted globs like 'new/*.jpg'")
        for match in matches:
            if os.path.isdir(match):
                walk = ImageWalk(match, follow_links)
                found.update(dict.fromkeys(walk.images(match)))
                skipped += [Skipped(str(match / each.path), each.reason) for each in walk.skipped]
            else:
                found[match] = None
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no images there", "Give images, or a folder that holds some")
    return list(found), skipped


def index_files(files: Sequence[Path]) -> ImageIndex:
    """Return the index of image files anywhere, all in one class and one split.

    Its root is the folder that contains them all; the current one if some paths are absolute and others are not.
    """
    try:
        root = Path(os.path.commonpath({path.parent for path in files}))
        names = [os.fsencode(path.relative_to(root)) for path in files]
    except ValueError:
        root, names = Path(), [os.fsencode(path) for path in files]
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    labels, splits = np.zeros(len(files), np.int32), np.full(len(files), TRAIN, np.int8)
    return ImageIndex(root, ("image",), labels, splits, (), b"".join(names), ends)


def _expand(pattern: Path) -> list[Path]:
    """Return the files and folders that match a glob, sorted.

    A part of the path that exists as it is written is not a pattern: `shots [2]/*.png` means the folder `shots [2]`.
    """
    *folders, last = pattern.parts
    bases = [""]
    for part in folders:
        bases = [os.path.join(base, name) for base in bases for name in _matches(base, part, is_last=False)]
    names = (os.path.join(base, name) for base in bases for name in _matches(base, last, is_last=True))
    return sorted({Path(name) for name in names})


def _matches(folder: str, part: str, is_last: bool) -> list[str]:
    """Return the names in `folder` that match one part of a glob; for `**`, the paths of all folders below it."""
    root = folder or os.curdir
    if part == "**":
        return ["", *glob.glob("**" if is_last else "**/", root_dir=root, recursive=True)]
    if os.path.exists(os.path.join(folder, part)):
        return [part]
    if not glob.has_magic(part):
        return []
    # `img [1]*.png` may mean `img [1]a.png`, in which the brackets are no pattern.
    return glob.glob(part, root_dir=root) or glob.glob(part.replace("[", "[[]"), root_dir=root)
