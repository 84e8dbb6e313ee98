"""`--labels train.csv`: a table and a folder of images -> index; no image is copied, moved or opened.

    path,label[,split][,group]
    train_images/001.jpg,dress        relative to --data or to the table; `001` and `001.jpg` do as well

Names are text: `007`, `None` and `1e5` stay as they are written. Images that are not in the table are left out.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from MLPipeline.decoding.ReadImage import IMAGE_SUFFIXES
from MLPipeline.Errors import DataError, UsageError, did_you_mean
from MLPipeline.files.ErrnoHints import unreadable
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell
from MLPipeline.images.ClassNames import check_names, class_name, name_key
from MLPipeline.images.ImageWalk import ImageWalk, count_reasons, natural_order
from MLPipeline.images.LabelColumns import Columns, choose_columns
from MLPipeline.images.ScanFolders import SPLITS, TRAIN, UNSPLIT, ImageIndex
from MLPipeline.images.SplitNames import split_of_name

_NUM_LISTED = 3  # rows named in a message

logger = logging.getLogger(__name__)


def scan_table(file: Path, root: Path, follow_links: bool = False, known_classes: Sequence[str] = ()) -> ImageIndex:
    """Return the index of the images below `root` that the table `file` labels, in natural order.

    With `known_classes`, those of a trained model, labels are matched to them by name.

    Raises:
        UsageError: `file` is no table, lacks a column, or has rows that cannot be used: without path or label, with a
            path that no image has, with two labels for one image, or with an unknown split or class.
        DataError: `root` cannot be listed, or there are fewer than two classes to learn from.
    """
    names, walk = _walk(root, follow_links)
    table = TableFile(file, "--labels")
    columns = choose_columns(table)
    rows = _Rows(table, columns)
    matches = _Matches(rows, root, file)
    files = os.fsdecode(bytes(names)).split("\0")[:-1]
    entry_of = matches.match(files)
    skipped = matches.among([each.path for each in walk.skipped])
    matches.refuse_missing(root)
    chosen = np.flatnonzero(entry_of >= 0)
    entries = entry_of[chosen]
    _say_what_is_used(table, columns, root, len(files) - len(chosen))
    numbers, classes = _number_classes(rows, table.where, known_classes)
    used = [os.fsencode(files[place]) for place in chosen.tolist()]
    index = ImageIndex(
        root=root,
        classes=tuple(classes),
        labels=numbers[np.frombuffer(rows.labels, np.int32)[entries]],
        splits=np.frombuffer(rows.splits, np.int8)[entries],
        skipped=tuple(walk.skipped[place] for place in skipped),
        _names=b"".join(used),
        _ends=np.cumsum(np.fromiter(map(len, used), np.int64, len(used))),
        groups=np.frombuffer(rows.groups, np.int32)[entries] if columns.group is not None else None,
    )
    if not known_classes:
        _require_training_images(index, table.where)
    return index


class _Rows:
    """The rows of a table, packed: one entry for each path, in the order of the table."""

    def __init__(self, table: TableFile, columns: Columns) -> None:
        self.where = table.where
        self.entries: dict[str, int] = {}  # path -> entry
        self.numbers, self.labels, self.groups, self.splits = array("i"), array("i"), array("i"), array("b")
        self.names: dict[str, int] = {}  # name of a class -> its number, in the order in which they come
        self.first: dict[int, int] = {}  # number of a class -> the row where it comes first
        self._problems: dict[str, array] = {}  # what is missing -> rows
        self._label_of, self._split_of, self._group_of = dict[str, int](), {"": UNSPLIT}, {"": -1}
        self._doubled = array("i")
        has_split = columns.split is not None
        for number, (path, label, *more) in table.rows(columns.used):
            split = more[0] if has_split else ""
            self._add(number, path, label, split, more[has_split] if len(more) > has_split else "")
        self._check()

    def _add(self, number: int, path: str, label: str, split: str, group: str) -> None:
        if (code := self._label_of.get(label)) is None:
            code = self._new_label(number, label)
        if (place := self._split_of.get(split)) is None:
            place = self._new_split(number, split)
        if code < 0 or not path.strip():
            self._problem("label" if path.strip() else "path", number)
            return
        entry = self.entries.setdefault(cell_key(path), len(self.numbers))
        if entry < len(self.numbers):
            self.require_same(entry, number, path, code, place)
            self._doubled.append(number)
            return
        self.numbers.append(number)
        self.labels.append(code)
        self.splits.append(place)
        known = self._group_of.get(group)
        self.groups.append(self._new_group(group) if known is None else known)

    def _new_label(self, number: int, label: str) -> int:
        """Return the number of the class that a new cell names; -1 if it is blank."""
        code = self.names.setdefault(class_name(plain_cell(label)), len(self.names)) if label.strip() else -1
        self.first.setdefault(code, number)
        self._label_of[label] = code
        return code

    def _new_group(self, group: str) -> int:
        """Return the number of the group that a new cell names, in whatever spelling; -1 if it is blank."""
        self._group_of[group] = self._group_of.setdefault(name_key(plain_cell(group)), len(self._group_of))
        return self._group_of[group]

    def _new_split(self, number: int, split: str) -> int:
        name = split_of_name(split)
        if name is None:
            what = f"{self.where}: row {number}: {split!r} is no split"
            raise UsageError(what, "Write train, val or test, or rename the column")
        self._split_of[split] = SPLITS.index(name)
        return self._split_of[split]

    def require_same_entry(self, first: int, entry: int, path: str) -> None:
        """Make sure that two entries that are the same file say the same."""
        first, entry = sorted([first, entry])
        self.require_same(first, self.numbers[entry], path, self.labels[entry], self.splits[entry])

    def require_same(self, entry: int, number: int, path: str, label: int, split: int) -> None:
        """Make sure that a second row of an image says the same as the first."""
        names = list(self.names)
        one, other = (names[code] for code in (self.labels[entry], label))
        if one == other and self.splits[entry] != split:
            one, other = (SPLITS[place] if place >= 0 else "" for place in (self.splits[entry], split))
        if one != other:
            what = f"{self.where}: rows {self.numbers[entry]} and {number} give {path!r} as {one!r} and {other!r}"
            raise UsageError(what, "Keep one of the two rows")

    def _problem(self, what: str, number: int) -> None:
        self._problems.setdefault(what, array("i")).append(number)

    def _check(self) -> None:
        splits = np.frombuffer(self.splits, np.int8) if self.splits else np.empty(0, np.int8)
        if np.any(splits == UNSPLIT) and not np.all(splits == UNSPLIT):
            rows = np.frombuffer(self.numbers, np.int32)[splits == UNSPLIT]
            self._problems["split, while other rows have one"] = array("i", rows.tobytes())
        for what, found in self._problems.items():
            has = "has" if len(found) == 1 else "have"
            raise UsageError(f"{self.where}: {_rows_text(found)} {has} no {what}", "Complete or remove what is empty")
        if not self.entries:
            raise UsageError(f"{self.where}: has no rows", "Give a table with one row per image")
        if self._doubled:
            what = "%s: an image is repeated with the same label %d times, as in %s"
            logger.warning(what, self.where, len(self._doubled), _rows_text(self._doubled))


def _walk(root: Path, follow_links: bool) -> tuple[bytearray, ImageWalk]:
    """Return the paths of all images below `root`, each followed by a zero byte, and the walk that found them."""
    walk, names = ImageWalk(root, follow_links), bytearray()
    start = len(os.fsencode(root / "x")) - 1
    try:
        os.listdir(root)
    except OSError as error:
        raise unreadable(root, error, "Give --data, the folder of the images that the table names") from error
    for image in walk.names(root):
        names += os.fsencode(image)[start:] + b"\0"
    return names, walk


class _Matches:
    """Which file each row names: by its whole path before its name alone, each with or without the suffix.

    N files, M entries. All files are looked up at once: one by one, a million would take too long.
    """

    def __init__(self, rows: _Rows, root: Path, file: Path) -> None:
        self._rows = rows
        self._tables = [rows.entries, dict(_other_spellings(rows.entries, root, file))]
        self._by_stem = any(_stem(key) == key for table in self._tables for key in table)
        self._by_name = any("/" not in key for table in self._tables for key in table)
        self._is_found = np.zeros(len(rows.numbers), bool)  # (M,)

    def match(self, files: list[str]) -> np.ndarray:
        """Return the entry (N,) int64 of each of the `files`, paths relative to the root; -1 for none.

        Raises:
            UsageError: a row fits two files, or two rows with different labels fit one.
        """
        entry_of = np.full(len(files), -1, np.int64)
        for places, entries in self._levels(files):
            self._require_one_file(files, places, entries)
            self._is_found[entries] = True
            _, first = np.unique(places, return_index=True)
            is_new = np.isin(np.arange(len(places)), first) & (entry_of[places] < 0)
            entry_of[places[is_new]] = entries[is_new]
            for place, entry in zip(places[~is_new].tolist(), entries[~is_new].tolist(), strict=True):
                self._rows.require_same_entry(int(entry_of[place]), entry, files[place])
        return entry_of

    def among(self, others: list[str]) -> list[int]:
        """Return the places in `others` (files that cannot be used) of those that rows name; they count as found."""
        found = list(self._levels(others))
        for _, entries in found:
            self._is_found[entries] = True
        return sorted({place for places, _ in found for place in places.tolist()})

    def _levels(self, files: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the places (K,) of files and the entries (K,) that they fit and no file before, the best fits first."""
        keys = list(map(cell_key, files))
        yield self._look_up(keys)
        if self._by_stem:
            yield self._look_up(map(_stem, keys))
        if self._by_name:
            keys = [key.rpartition("/")[2] for key in keys]
            yield self._look_up(keys)
            if self._by_stem:
                yield self._look_up(map(_stem, keys))

    def _look_up(self, keys: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        keys = list(keys)
        found = [np.fromiter(map(table.get, keys, repeat(-1)), np.int64, len(keys)) for table in self._tables if table]
        entries = np.concatenate(found)
        places = np.flatnonzero(entries >= 0)
        places = places[~self._is_found[entries[places]]]
        return places % max(1, len(keys)), entries[places]

    def _require_one_file(self, files: list[str], places: np.ndarray, entries: np.ndarray) -> None:
        order = np.lexsort((places, entries))
        is_rival = (np.diff(entries[order]) == 0) & (np.diff(places[order]) != 0)
        for at in np.flatnonzero(is_rival).tolist():
            one, other = (files[place] for place in places[order][at : at + 2].tolist())
            number = self._rows.numbers[entries[order][at]]
            what = f"{self._rows.where}: row {number} fits two files, {one!r} and {other!r}"
            raise UsageError(what, "Write the whole path in the table, or give a narrower --data")

    def refuse_missing(self, root: Path) -> None:
        """Raise UsageError if there are rows that name no file."""
        missing = np.flatnonzero(~self._is_found)
        if not len(missing):
            return
        shown = set(missing[:_NUM_LISTED].tolist())
        paths = {entry: path for path, entry in self._rows.entries.items() if entry in shown}
        listed = ", ".join(f"row {self._rows.numbers[entry]} ({path!r})" for entry, path in sorted(paths.items()))
        rest = f" and {len(missing) - len(paths)} more" if len(missing) > len(paths) else ""
        what = f"{self._rows.where}: no image below {root} for {listed}{rest}"
        raise UsageError(what, "Give --data, the folder that the paths are relative to, or correct or remove the rows")


def _other_spellings(entries: dict[str, int], root: Path, file: Path) -> Iterator[tuple[str, int]]:
    """Yield other keys for the paths of a table: slashes for backslashes, no `./`, relative to the table, absolute."""
    top, around = os.path.realpath(root), os.path.realpath(file.parent)
    is_elsewhere = top != around
    for key, entry in entries.items():
        path = key.replace("\\", "/")
        if path.startswith("/"):
            for each in (os.path.abspath(root), top):
                if path.startswith(each + "/"):
                    yield os.path.normpath(path[len(each) + 1 :]), entry
            continue
        if path != key or "./" in path or "//" in path:
            path = os.path.normpath(path)
            yield path, entry
        if is_elsewhere:
            beside = os.path.normpath(f"{around}/{path}")
            if beside.startswith(top + "/"):
                yield beside[len(top) + 1 :], entry


def _stem(path: str) -> str:
    """Return `path` without the suffix of an image file."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else path


def _number_classes(rows: _Rows, where: str, classes: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """Return the class (L,) int32 of each label, and the names of the classes."""
    if classes:
        known = {class_name(name): number for number, name in enumerate(classes)}
        for label, code in rows.names.items():
            if label not in known:
                what = f"{where}: the model knows no class {label!r}, as in row {rows.first[code]}"
                raise UsageError(what, did_you_mean(label, classes))
    else:
        check_names(where, rows.names)
        classes = sorted(rows.names, key=natural_order)
        known = {name: number for number, name in enumerate(classes)}
    return np.array([known[label] for label in rows.names], np.int32), classes


def _require_training_images(index: ImageIndex, where: str) -> None:
    trained = index.labels[np.isin(index.splits, (TRAIN, UNSPLIT))]
    for label in np.flatnonzero(np.bincount(trained, minlength=len(index.classes)) == 0).tolist():
        skipped = f" (left out: {count_reasons(index.skipped)})" if index.skipped else ""
        what = f"{where}: class {index.classes[label]!r} has no training images{skipped}"
        raise DataError(what, "Add some, or remove its rows")
    if len(index.classes) < 2:
        raise DataError(f"{where}: has only the class {index.classes[0]!r}, and two are needed", "Add rows of another")


def _say_what_is_used(table: TableFile, columns: Columns, root: Path, num_left_out: int) -> None:
    places = (columns.path, columns.label, columns.split, columns.group)
    parts = zip(("path", "label", "split", "group"), places, strict=True)
    used = ", ".join(f"{what} from {table.header[place]!r}" for what, place in parts if place is not None)
    rest = f"; {num_left_out} images below {root} are not in it and are left out" if num_left_out else ""
    logger.warning("%s: %s%s", table.where, used, rest)


def _rows_text(rows: Sequence[int]) -> str:
    listed = ", ".join(map(str, rows[:_NUM_LISTED]))
    rest = f" and {len(rows) - _NUM_LISTED} more" if len(rows) > _NUM_LISTED else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{rest}"
