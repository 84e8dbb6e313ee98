"""`--labels train.csv`: a table and a folder of images -> index; no image is copied, moved or opened.

    path,label[,split][,group]
    train_images/001.jpg,dress        relative to --data or to the table; `001` and `001.jpg` do as well

Names are text: `007`, `None` and `1e5` stay as they are written. Images that are not in the table are left out.
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from MLPipeline.Errors import DataError, UsageError, did_you_mean
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell
from MLPipeline.images.ClassNames import check_names, class_name
from MLPipeline.images.ImageWalk import ImageWalk, natural_order
from MLPipeline.images.LabelColumns import Columns, choose_columns
from MLPipeline.images.ReadImage import IMAGE_SUFFIXES
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
    names, ends, walk = _walk(root, follow_links)
    table = TableFile(file, "--labels")
    columns = choose_columns(table)
    rows = _Rows(table, columns)
    entry_of, skipped = _match(rows, root, file, names, ends, walk)
    chosen = np.flatnonzero(entry_of >= 0)
    entries = entry_of[chosen]
    _say_what_is_used(table, columns, root, len(ends) - len(chosen))
    numbers, classes = _number_classes(rows, table.where, known_classes)
    starts = np.append(0, ends[:-1])
    index = ImageIndex(
        root=root,
        classes=tuple(classes),
        labels=numbers[np.frombuffer(rows.labels, np.int32)[entries]],
        splits=np.frombuffer(rows.splits, np.int8)[entries],
        skipped=tuple(walk.skipped[place] for place in skipped),
        _names=b"".join(bytes(names[starts[place] : ends[place]]) for place in chosen.tolist()),
        _ends=np.cumsum((ends - starts)[chosen], dtype=np.int64),
        groups=np.frombuffer(rows.groups, np.int32)[entries] if columns.group is not None else None,
    )
    if not known_classes:
        _require_training_images(index, table.where)
    return index


class _Rows:
    """The rows of a table, packed: one entry for each path, in the order of the table."""

    def __init__(self, table: TableFile, columns: Columns) -> None:
        self.entries: dict[str, int] = {}  # path -> entry; given up once the files are matched
        self.numbers, self.labels, self.groups, self.splits = array("i"), array("i"), array("i"), array("b")
        self.names: dict[str, int] = {}  # label -> number, in the order in which they come
        self.first: dict[int, int] = {}  # number of a label -> the row where it comes first
        self.where, self._groups = table.where, dict[str, int]()
        self._problems: dict[str, list[int]] = {}  # what is wrong -> rows
        doubled = array("i")
        for number, (path, label, *more) in table.rows(columns.used):
            split = more.pop(0) if columns.split is not None else ""
            self._add(number, path, label, split, more[0] if more else "", doubled)
        if columns.split is not None and not all(split == UNSPLIT for split in self.splits):
            unsplit = (self.numbers[entry] for entry, split in enumerate(self.splits) if split == UNSPLIT)
            self._problems.setdefault("have no split, while others have", []).extend(unsplit)
        self._refuse_problems()
        if not self.entries:
            raise UsageError(f"{table.where}: has no rows", "Give a table with one row per image")
        if doubled:
            what = "%s: %d rows repeat an image with the same label, such as %s"
            logger.warning(what, table.where, len(doubled), _rows_text(doubled))

    def _add(self, number: int, path: str, label: str, split: str, group: str, doubled: array) -> None:
        if not path.strip() or not label.strip():
            self._problem("have no label" if path.strip() else "have no path", number)
            return
        side = split_of_name(split)
        if split and side is None:
            self._problem(f"have a split that is none of train, val, test, such as {split!r}", number)
            return
        label = class_name(plain_cell(label))
        code = self.names.setdefault(label, len(self.names))
        self.first.setdefault(code, number)
        place = SPLITS.index(side) if side else UNSPLIT
        entry = self.entries.setdefault(cell_key(path), len(self.numbers))
        if entry < len(self.numbers):
            self.require_same(entry, number, path, code, place)
            doubled.append(number)
            return
        self.numbers.append(number)
        self.labels.append(code)
        self.splits.append(place)
        self.groups.append(self._groups.setdefault(group, len(self._groups)) if group else -1)

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
        self._problems.setdefault(what, []).append(number)

    def _refuse_problems(self) -> None:
        for what, rows in self._problems.items():
            if rows:
                raise UsageError(f"{self.where}: {_rows_text(rows)} {what}", "Complete or remove them")


def _walk(root: Path, follow_links: bool) -> tuple[bytearray, np.ndarray, ImageWalk]:
    """Return the paths of all images below `root`, one after the other, where each ends (N,) int64, and the walk."""
    walk = ImageWalk(root, follow_links)
    names, ends = bytearray(), array("q")
    start = len(os.fsencode(root / "x")) - 1
    try:
        os.listdir(root)
    except OSError as error:
        hint = "Give --data, the folder of the images that the table names"
        raise DataError(f"{root}: cannot be read ({error.strerror})", hint) from error
    for image in walk.images(root):
        names += os.fsencode(image)[start:]
        ends.append(len(names))
    return names, np.frombuffer(ends, np.int64), walk


class _Matcher:
    """Which file each row names: by its whole path before its name alone, each with or without the suffix."""

    def __init__(self, rows: _Rows, root: Path, file: Path) -> None:
        self.rows = rows
        self.rank = bytearray(b"\xff" * len(rows.numbers))  # of the best match so far; the lower the better
        self.file = np.full(len(rows.numbers), -1, np.int64)
        self.rival: dict[int, tuple[str, str]] = {}  # entry -> two files that fit it equally well
        self._spelled = dict(_other_spellings(rows.entries, root, file))
        self._by_name = any("/" not in key for key in rows.entries)

    def keys(self, path: str) -> Iterator[tuple[int, int]]:
        """Yield (rank, entry) of each row that may mean the file `path`, relative to the root."""
        key = cell_key(path)
        names = [key, _stem(key)]
        if self._by_name and "/" in key:
            name = key.rpartition("/")[2]
            names += [name, _stem(name)]
        for rank, name in enumerate(names):
            for spelled in (self.rows.entries, self._spelled) if self._spelled else (self.rows.entries,):
                if (entry := spelled.get(name)) is not None:
                    yield rank, entry

    def add(self, place: int, path: str, name_of: Callable[[int], str]) -> None:
        """Take the file number `place` into account."""
        for rank, entry in self.keys(path):
            if rank < self.rank[entry]:
                self.rank[entry], self.file[entry] = rank, place
                self.rival.pop(entry, None)
            elif rank == self.rank[entry] and self.file[entry] != place:
                self.rival.setdefault(entry, (name_of(int(self.file[entry])), path))


def _match(
    rows: _Rows, root: Path, file: Path, names: bytearray, ends: np.ndarray, walk: ImageWalk
) -> tuple[np.ndarray, list[int]]:
    """Return the entry (N,) int64 of each file, -1 for none, and the places in `walk.skipped` that rows name."""
    matcher = _Matcher(rows, root, file)

    def name_of(place: int) -> str:
        return os.fsdecode(bytes(names[int(ends[place - 1]) if place else 0 : int(ends[place])]))

    start = 0
    for place, end in enumerate(ends):
        matcher.add(place, os.fsdecode(bytes(names[start:end])), name_of)
        start = end
    for entry, (one, other) in list(matcher.rival.items())[:1]:
        what = f"{rows.where}: row {rows.numbers[entry]} fits two files, {one!r} and {other!r}"
        raise UsageError(what, "Write the whole path in the table, or give a narrower --data")
    is_skipped, unused = bytearray(len(rows.numbers)), []
    for place, each in enumerate(walk.skipped):
        hits = [entry for _, entry in matcher.keys(each.path) if matcher.file[entry] < 0]
        for entry in hits:
            is_skipped[entry] = True
        if hits:
            unused.append(place)
    _refuse_missing(rows, root, (matcher.file < 0) & ~np.frombuffer(is_skipped, bool))
    entry_of = np.full(len(ends), -1, np.int64)
    found = np.flatnonzero(matcher.file >= 0)
    for entry in found[np.argsort(matcher.file[found], kind="stable")].tolist():
        place = int(matcher.file[entry])
        if (first := int(entry_of[place])) >= 0:
            rows.require_same(first, rows.numbers[entry], name_of(place), rows.labels[entry], rows.splits[entry])
        else:
            entry_of[place] = entry
    return entry_of, unused


def _refuse_missing(rows: _Rows, root: Path, is_missing: np.ndarray) -> None:
    missing = np.flatnonzero(is_missing)
    if not len(missing):
        return
    wanted = set(missing[:_NUM_LISTED].tolist())
    paths = {entry: path for path, entry in rows.entries.items() if entry in wanted}
    listed = ", ".join(f"row {rows.numbers[entry]} ({path!r})" for entry, path in sorted(paths.items()))
    rest = f" and {len(missing) - len(paths)} more" if len(missing) > len(paths) else ""
    what = f"{rows.where}: no image below {root} for {listed}{rest}"
    hint = "Give --data, the folder that the paths are relative to, or correct or remove the rows"
    raise UsageError(what, hint)


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
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in IMAGE_SUFFIXES else path


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
        what = f"{where}: class {index.classes[label]!r} has no training images"
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
