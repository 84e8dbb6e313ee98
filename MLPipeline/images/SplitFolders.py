"""Data folder -> class folders with their splits, where a folder's name may mean a split or a class.

    layout = find_layout(Path("Data"))
    layout.class_folders            [("train", Data/training_set/cat), ("test", Data/test_set/cat), ...]

Where both readings make sense, the user is asked: `--split-folders yes` or `no`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from MLPipeline.decoding.ReadImage import IMAGE_SUFFIXES
from MLPipeline.Errors import DataError
from MLPipeline.images.ClassNames import class_name, name_key
from MLPipeline.images.ImageWalk import is_junk, visible
from MLPipeline.images.SplitNames import is_generic, is_unlabelled, split_of_name

EXPECTED_LAYOUT = "Expected one folder per class, as in Data/cat/1.jpg and Data/dog/2.jpg"
READINGS = ("auto", "yes", "no")  # the values of --split-folders
_NUM_LISTED = 3  # folders named in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """What the folders below the data folder are."""

    class_folders: list[tuple[str, Path]]  # (split, folder), training first; "" where there are no split folders
    around: frozenset[Path]  # folders that hold class folders, from the data folder down
    unlabelled: list[Path]  # val or test folders, whose images are of no class


def find_layout(root: Path, reading: str = "auto", classes: Collection[str] = ()) -> Layout:
    """Return which folders below `root` are classes, and of which split.

    `reading` is what --split-folders says: `no` takes every folder for a class, `yes` every folder that is named like
    a split for that split. With `classes`, those of a trained model, no training folder is required.

    Raises:
        OSError: `root` cannot be listed.
        DataError: there are no class folders, or a folder may be a split as well as a class.
    """
    folders = _folders(root)
    splits, others = ({}, folders) if reading == "no" else _splits_and_others(root, folders, classes)
    if not splits:
        _require_class_folders(root, folders)
        if reading == "auto":
            _note_splits_inside(folders)
        return Layout([("", folder) for folder in folders], frozenset([root]), [])
    beside = [folder for folder in others if not is_unlabelled(folder.name) and _holds_images(folder)]
    if beside and reading == "auto":
        raise _ambiguous(root, splits, beside)
    if "train" not in splits and not classes and not beside:
        names = " and ".join(folder.name for folder in splits.values())
        hint = "Put the class folders to learn from into a folder `train`; if every folder is a class, say "
        raise DataError(f"{root}: {names} but no train", hint + "--split-folders no")
    found = [("train", folder) for folder in beside] if "train" not in splits else []
    if found:
        logger.warning("%s are used for training: there is no `train` folder", _listed(beside))
    for folder in [each for each in others if each not in beside or not found]:
        logger.warning("%s lies beside the split folders and is not used", folder)
    return _inside_splits(root, splits, found, classes)


def _splits_and_others(root: Path, folders: list[Path], classes: Collection[str]) -> tuple[dict[str, Path], list[Path]]:
    """Return the split folders, train first, and the folders that are named otherwise."""
    splits: dict[str, Path] = {}
    others = []
    for folder in folders:
        split = split_of_name(folder.name)
        if split is None or (class_name(folder.name) in classes and not _folders(folder)):
            others.append(folder)
        elif split not in splits:
            splits[split] = folder
        elif not _holds_images(folder):  # `train_labels` beside `train_images`
            others.append(folder)
        elif not _holds_images(splits[split]):
            others.append(splits[split])
            splits[split] = folder
        else:
            hint = "Keep one of them; if every folder is a class, use --split-folders no"
            raise DataError(f"{root}: {splits[split].name} and {folder.name} are the same split", hint)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}, others


def _ambiguous(root: Path, splits: dict[str, Path], beside: list[Path]) -> DataError:
    """Return the error for split folders that lie beside folders with images: it names both readings."""
    names = _listed(list(splits.values()))
    verb, one, both = ("lies", "a split", "a class") if len(splits) == 1 else ("lie", "splits", "classes")
    rest = "left out" if "train" in splits else "used for training"
    return DataError(
        f"{root}: {names} {verb} beside other folders with images ({_listed(beside)}) and may be {one} or {both}",
        f"Use --split-folders yes for {one}, the others being {rest}, or --split-folders no if every folder is a class",
    )


def _inside_splits(
    root: Path, splits: dict[str, Path], found: list[tuple[str, Path]], classes: Collection[str]
) -> Layout:
    around, unlabelled = {root}, list[Path]()
    for split, top in splits.items():
        known = {name_key(name) for name in (*classes, *(folder.name for _, folder in found))}
        folder, wrappers = _unwrapped(top, known)
        folders = _folders(folder)
        is_loose = split != "train" and all(_is_wrapper(each, known) for each in folders) and _holds_images(folder)
        if is_loose and (found or len(splits) > 1):
            unlabelled.append(top)
            _note_unlabelled(split, top)
        elif folders and not is_loose:
            found += [(split, each) for each in folders]
            around |= wrappers
        else:
            raise _no_class_folders(folder, split)
    return Layout(found, frozenset(around), unlabelled)


def _unwrapped(folder: Path, known: Collection[str]) -> tuple[Path, set[Path]]:
    """Return the folder that holds the class folders of a split, such as `seg_train/seg_train`, and those around it."""
    around = {folder}
    while True:
        inside = visible(folder)
        is_wrapped = len(inside) == 1 and os.path.isdir(inside[0]) and _is_wrapper(inside[0], known)
        if not is_wrapped or not _folders(inside[0]):
            return folder, around
        folder = inside[0]
        around.add(folder)


def _is_wrapper(folder: Path, known: Collection[str]) -> bool:
    """Return whether the name of a folder inside a split folder says that it is no class."""
    name = folder.name
    return name_key(name) not in known and (is_generic(name) or is_unlabelled(name) or bool(split_of_name(name)))


def _require_class_folders(root: Path, folders: list[Path]) -> None:
    if folders:
        return
    loose = _num_images(root)
    what = f"{loose} images but no class folders" if loose else "no class folders"
    hint = EXPECTED_LAYOUT + ("; if a table has the labels, use --labels TABLE" if loose else "")
    raise DataError(f"{root}: {what}", hint)


def _note_splits_inside(folders: list[Path]) -> None:
    """Note that folders such as `cat/train` and `cat/test`, inside the class, are not used as splits."""
    for folder in folders[:_NUM_LISTED]:  # who sorts images like this does so in every class
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # the walk says what cannot be read
            inside = {split_of_name(entry.name): entry.name for entry in entries if entry.is_dir()}
            held_out = inside.get("test", inside.get("val"))
            if "train" in inside and held_out:
                what = "%s/%s and %s/%s lie inside a class folder and are not used as splits; "
                hint = "to use such splits, make them the outer folders, as in %s/%s"
                train = inside["train"]
                logger.warning(what + hint, folder.name, train, folder.name, held_out, train, folder.name)
                return


def _no_class_folders(folder: Path, split: str) -> DataError:
    loose = _num_images(folder)
    what = f"{loose} images but no class folders" if loose else "no class folders"
    hint = f"{EXPECTED_LAYOUT}; if a table has the labels, use --labels TABLE; if {folder.name!r} is itself a class, "
    hint += "use --split-folders no"
    if loose and split != "train":
        hint = f"To name their classes: {_predict_line(folder)}. {hint}"
    return DataError(f"{folder}: {what}", hint)


def _note_unlabelled(split: str, folder: Path) -> None:
    what = "%s: its images are in no class folder, so they are unlabelled and not used as %s images; "
    logger.warning(what + "to name their classes after training: %s", folder, split, _predict_line(folder))


def _predict_line(folder: Path) -> str:
    return f"python Engine.py predict {shlex.quote(str(folder))}"


def _folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if os.path.isdir(path)]  # no error for a link that points to itself


def _num_images(folder: Path) -> int:
    return sum(_is_image(path.name) for path in visible(folder))


def _holds_images(folder: Path) -> bool:
    """Return whether an image lies anywhere below `folder`."""
    for _, folders, files in os.walk(folder):
        if any(_is_image(name) and not is_junk(name) for name in files):
            return True
        folders[:] = [name for name in folders if not is_junk(name)]
    return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _listed(folders: list[Path]) -> str:
    names = [repr(folder.name) for folder in folders[:_NUM_LISTED]]
    more = len(folders) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
