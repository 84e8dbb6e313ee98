"""Labels on disk: each is written and flushed at once, so that a killed process or a full disk loses none.

    labels.csv             path,label,split: what `--labels` trains on
    labels.history.csv     time,path,label,split,before,by: every change, also those that another one has replaced
    labels.session.json    the folder of the photographs, and the classes in the order in which they were typed

A new label is appended to `labels.csv`; a change replaces the whole file, atomically. What a person writes into it
meanwhile counts, and stays. What cannot be written stays in memory, and is written as soon as that is possible.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.AtomicFile import unwritable, write_text
from MLPipeline.files.CsvFile import append_rows, write_csv
from MLPipeline.files.Json import dump_json, read_json
from MLPipeline.files.Lock import held
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell
from MLPipeline.images.ClassNames import class_name
from MLPipeline.images.ScanFolders import SPLITS

COLUMNS = ["path", "label", "split"]
# `by` in the history: the picture of a label is missing, or is there again; another program has changed the table.
GONE, BACK, EDITED = "gone", "back", "edited"
_HISTORY = ["time", "path", "label", "split", "before", "by"]
_MAX_SESSION_BYTES = 10**7
_HINT = "Give another --csv"


@dataclass(frozen=True)
class Label:
    """The class of a picture, and the split that it is in for training."""

    name: str
    split: str = "train"


@dataclass(frozen=True)
class Change:
    """A new label of one picture; None stands for no label."""

    path: str  # relative to the folder of the photographs
    label: Label | None
    by: str  # who has made it: the identifier of a page


class LabelFile:
    """The labels of the photographs in `root`, kept in `file`; only one process at a time has it open.

    Attributes:
        labels: the label of each picture, by its path.
        classes: the names of the classes.
        problem: why the latest labels are not on disk; empty if they are.
        notes: what was found on opening.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self._root = file, root
        self.history = file.with_name(f"{file.stem}.history.csv")
        self.session = file.with_name(f"{file.stem}.session.json")
        self.labels: dict[str, Label] = {}
        self.classes: list[str] = []
        self.problem = ""
        self.notes: list[str] = []
        self._names: dict[str, str] = {}  # of the pictures, by `cell_key`
        self._unwritten: list[list[str]] = []  # rows of the history
        self._state: tuple[int, int] | None = None  # size and time of a `file` that has all labels

    @contextmanager
    def opened(self, names: Iterable[str]) -> Iterator[LabelFile]:
        """Read what earlier sessions have labelled of the pictures `names`; hold the lock inside the `with` block.

        Raises:
            UsageError: `file` is not a table of labels, or belongs to the photographs of another folder.
            ResourceError: another process holds it, it cannot be written, or labels could not be written at the end.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with held(self.file.with_name(f".{self.file.name}.lock"), self.file, timeout_s=0):
                self._names = {cell_key(name): name for name in names}
                self._read()
                try:
                    yield self
                finally:  # a signal ends the session
                    self._finish()
        except OSError as error:
            raise unwritable(self.file, error, _HINT) from error

    def _finish(self) -> None:
        if not self.flush():
            labels = "1 label is" if len(self._unwritten) == 1 else f"{len(self._unwritten)} labels are"
            raise ResourceError(f"{labels} not on disk ({self.problem})", "Label them again")

    def put(self, changes: Sequence[Change]) -> bool:
        """Apply `changes`, and return whether they are on disk; if not, `problem` says why."""
        self._take_over()
        are_new = all(each.label and each.path not in self.labels for each in changes)
        for each in changes:
            self._apply(each)
        if not are_new or self._state is None or self._state != file_state(self.file):
            return self._write(self._rewrite)
        rows = [(each.path, each.label.name, each.label.split) for each in changes if each.label]
        return self._write(lambda: append_rows(self.file, rows))

    def flush(self) -> bool:
        """Write the labels that are not on disk yet; return whether all are."""
        return not self._unwritten or self._write(self._rewrite)

    def add_classes(self, names: Sequence[str]) -> None:
        """Add classes, and record them on disk.

        Raises:
            ResourceError: they cannot be written.
        """
        content = {"photographs": str(self._root.resolve()), "classes": [*self.classes, *names]}
        write_text(self.session, dump_json(content, indent=2) + "\n")
        self.classes += names

    def _take_over(self) -> None:
        """Apply what another program has changed in the table since it was written here; a broken one is set aside."""
        if self._unwritten or not self._is_foreign() or not self.file.exists():
            return
        try:
            found = {self._names.get(cell_key(path), path): label for path, label in self._rows()}
        except UsageError as error:
            self.notes.append(f"{error.what}: it is kept as {self.file.name}.prev, and written again")
            return
        edits = [Change(path, label, EDITED) for path, label in found.items() if self.labels.get(path) != label]
        for each in [*edits, *(Change(path, None, EDITED) for path in self.labels.keys() - found.keys())]:
            self._apply(each)
        self._add_labelled_classes()

    def _add_labelled_classes(self) -> None:
        self.classes += dict.fromkeys(each.name for each in self.labels.values() if each.name not in self.classes)

    def _apply(self, change: Change) -> None:
        before = self.labels.pop(change.path, None)
        if change.label:
            self.labels[change.path] = change.label
        name, split = (change.label.name, change.label.split) if change.label else ("", before.split if before else "")
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._unwritten.append([now, change.path, name, split, before.name if before else "", change.by])

    def _write(self, write_labels: Callable[[], None]) -> bool:
        try:
            write_labels()
            self._state = file_state(self.file)
            header = [] if self.history.exists() else [_HISTORY]
            append_rows(self.history, [*header, *self._unwritten])
        except (OSError, ResourceError) as error:
            self._state = None  # the next attempt writes all labels
            self.problem = str(error if isinstance(error, ResourceError) else unwritable(self.file, error, "Make room"))
            return False
        self._unwritten.clear()
        self.problem = ""
        return True

    def _rewrite(self) -> None:
        rows = [(path, label.name, label.split) for path, label in self.labels.items()]
        write_csv(pd.DataFrame(rows, columns=COLUMNS, dtype=object), self.file, keep_previous=self._is_foreign())

    def _is_foreign(self) -> bool:
        """Return whether another program has changed the file since it was written here."""
        return self._state is not None and self._state != file_state(self.file)

    def _read(self) -> None:
        """Take over the labels of the pictures; set aside those of pictures that are gone."""
        self._read_session()
        missing = []
        for path, label in self._read_table():
            if (name := self._names.get(cell_key(path))) is None:
                missing.append(path)
                self.labels[path] = label
            else:
                self.labels[name] = label
        self._add_labelled_classes()
        gone = [Change(path, None, GONE) for path in missing]
        back = [Change(name, label, BACK) for name, label in self._set_aside().items() if name not in self.labels]
        if gone:
            pictures, labels = (
                ("picture is", "its label is") if len(gone) == 1 else ("pictures are", "their labels are")
            )
            self.notes.append(f"{len(gone)} labelled {pictures} gone, such as {gone[0].path}: {labels} kept")
        if back:
            one, many = (
                "picture that was gone is back, with its label",
                "pictures that were gone are back, with their labels",
            )
            self.notes.append(f"{len(back)} {one if len(back) == 1 else many}")
        if gone or back or not self.file.exists():
            self.put([*gone, *back])

    def _read_session(self) -> None:
        if not self.session.exists():
            return
        try:
            content = read_json(self.session, _MAX_SESSION_BYTES)
            photographs, classes = Path(content["photographs"]), [str(name) for name in content["classes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.session}: cannot be read ({error})", f"Remove it, or: {_HINT}") from error
        if photographs != self._root.resolve() and photographs.is_dir():
            raise UsageError(f"--csv {self.file}: has the labels of the photographs in {photographs}", _HINT)
        self.classes += classes

    def _read_table(self) -> list[tuple[str, Label]]:
        """Return the rows of `file`; one that was not written completely is cut off.

        Raises as `_rows`.
        """
        if not self.file.exists():
            return []
        _complete(self.file)
        return self._rows()

    def _rows(self) -> list[tuple[str, Label]]:
        """Return the rows of `file`.

        Raises:
            UsageError: it is not a table of labels, or has columns that would be lost.
        """
        table = TableFile(self.file, "--csv")
        names = [name.casefold() for name in table.header]
        if names not in (COLUMNS, COLUMNS[:2]):
            raise UsageError(
                f"{table.where}: has the columns {', '.join(table.header)}, not {','.join(COLUMNS)}", _HINT
            )
        rows = []
        for number, (path, label, *split) in table.rows(range(len(names))):
            if (split or [""])[0] not in ("", *SPLITS):
                raise UsageError(f"{table.where}: row {number}: {split[0]!r} is no split", "Write train, val or test")
            if label.strip():
                rows.append((plain_cell(path), Label(class_name(plain_cell(label)), "".join(split) or "train")))
        self._state = file_state(self.file) if names == COLUMNS else None
        return rows

    def _set_aside(self) -> dict[str, Label]:
        """Return the labels that were set aside because their pictures, which are there again, were gone."""
        if not self.history.exists():
            return {}
        _complete(self.history)
        found: dict[str, Label] = {}
        table = TableFile(self.history, "--csv")
        for _, (_, path, _, split, before, by) in table.rows(range(len(_HISTORY))):
            found.pop(key := cell_key(path), None)
            if by == GONE:
                found[key] = Label(class_name(plain_cell(before)), split)
        return {self._names[key]: label for key, label in found.items() if key in self._names}


def file_state(file: Path) -> tuple[int, int] | None:
    """Return the size and the time of a file, by which a change shows; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _complete(file: Path) -> None:
    """Cut off a last row that was not written completely, as the machine has crashed; files of others stay as they are.

    A row without its line end is complete if it has its split, which may be blank: a person has edited the file.
    """
    with file.open("r+b") as opened:
        content = opened.read()
        if not content.startswith((",".join(COLUMNS).encode(), ",".join(_HISTORY).encode())):
            return
        start = content.rfind(b"\n") + 1
        last = content[start:].rstrip(b"\0")
        opened.truncate(start + len(last) if last else start)
        opened.seek(0, os.SEEK_END)
        *before, split = last.split(b",")
        is_blank = not split and len(before) == len(COLUMNS) - 1 and content.startswith(",".join(COLUMNS).encode())
        if split.decode(errors="replace") in SPLITS or is_blank:
            opened.write(b"\r\n")
        elif last:
            opened.truncate(start)
