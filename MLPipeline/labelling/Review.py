"""Deciding on labels that look wrong: the mistakes of a run and the suspects of an audit, one picture after another.

The answers are the rows of a table that `--fixes` takes: `label` is what the picture shows, `given` what it was
labelled. A row with the same in both says that the label is right.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.Lock import held
from MLPipeline.files.TableFile import cell_key
from MLPipeline.images.Fixes import Fix, read_fixes
from MLPipeline.labelling.LabelFile import file_state
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Shown import Group, Picture, Progress
from MLPipeline.labelling.Turns import Turns


class Review:
    """The decisions on `suspects`, which are shown in this order; kept in the table `file`.

    All methods may be called from several threads, and several pages may decide at once.
    """

    def __init__(self, photographs: Photographs, classes: Sequence[str], suspects: Sequence[Fix], file: Path) -> None:
        """Take the pictures, `photographs`, one for each of the `suspects`."""
        self.photographs, self.classes, self.file = photographs, tuple(classes), file
        self._suspects = suspects
        self._lock = threading.RLock()
        self._turns = Turns([], range(len(suspects)))
        self._decided: dict[str, Fix] = {}  # by `cell_key` of the path
        self._undo: defaultdict[str, list[tuple[int, Fix | None, Fix]]] = defaultdict(list)
        self._problem = ""
        self._written: tuple[int, int] | None = None  # size and time of the `file` whose rows are `_decided`
        self._notes: deque[str] = deque(maxlen=20)

    @contextmanager
    def opened(self, earlier: Path | None = None) -> Iterator[None]:
        """Read the decisions of earlier sessions, or else the table `earlier`; hold the lock inside the `with` block.

        Raises:
            UsageError: a table cannot be read.
            ResourceError: another process holds it, it cannot be written, or decisions could not be written at the end.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with held(self.file.with_name(f".{self.file.name}.lock"), self.file, timeout_s=0):
                table = self.file if self.file.exists() else earlier
                for fix in read_fixes(table) if table else ():
                    self._decided[cell_key(fix.path)] = fix
                self._written = file_state(self.file)
                try:
                    yield
                finally:  # a signal ends the session
                    self._finish()
        except OSError as error:
            raise unwritable(self.file, error, "Give another --csv") from error

    def _finish(self) -> None:
        self._take_over()
        self._write()
        if self._problem:
            raise ResourceError(f"the latest decisions are not on disk ({self._problem})", "Decide them again")

    def add_classes(self, names: Sequence[str]) -> None:
        """Refuse new classes.

        Raises:
            UsageError: always: `--fixes` accepts only classes that there are.
        """
        raise UsageError("a review has the classes of its run", "Label the pictures of a new class with `label`")

    def pictures(self, numbers: Iterable[int]) -> list[Picture]:
        """Return pictures as they are now; those that are gone are passed over.

        Raises:
            UsageError: there is no such picture.
        """
        with self._lock:
            found = []
            for number in numbers:
                self._require(number)
                suspect, stamp = self._suspects[number], self.photographs.stamp(number)
                if stamp:
                    proposals = ((suspect.suggested, suspect.confidence),)
                    found.append(Picture(number, self.photographs.names[number], stamp, proposals, suspect.given))
                else:
                    self.skip(number, "the file is gone")
            return found

    def next(self, page: str, number: int, without: Sequence[int] = ()) -> list[Picture]:
        """Return up to `number` suspects for `page` to decide next; it has those in `without` already."""
        with self._lock:
            return self._turns.pictures(page, number, without, self._is_decided, self.pictures)

    def label(self, page: str, shown: Sequence[tuple[int, str]], name: str, picked_out: Sequence[int] = ()) -> str:
        """Decide that pictures, given with their stamps, show `name`; return why some are not decided.

        Raises:
            UsageError: there is no such picture or class, or the table has been changed to something else.
        """
        with self._lock:
            if name not in self.classes:
                raise UsageError(f"no class {name!r}", "Choose one of the classes of the run")
            self._take_over()
            missed = []
            for number, stamp in shown:
                self._require(number)
                if stamp == self.photographs.stamp(number) != "":
                    self._decide(page, number, name)
                else:
                    self.skip(number, "the file has changed or is gone")
                    missed.append(f"{self.photographs.names[number]}: the file has changed or is gone")
            self._write()
            return "; ".join(missed)

    def skip(self, number: int, why: str = "") -> None:
        """Do not show a picture again in this session; `why` is noted if it cannot be used at all."""
        with self._lock:
            self._require(number)
            if why and number not in self._turns.passed_over:
                self._notes.append(f"{self.photographs.names[number]}: {why}")
            self._turns.passed_over.add(number)

    def undo(self, page: str) -> tuple[list[Picture], str]:
        """Take back the last decision of `page`; return its picture, and why it was not taken back."""
        with self._lock:
            if not self._undo[page]:
                return [], "nothing to undo"
            self._take_over()
            number, before, after = self._undo[page].pop()
            key = cell_key(after.path)
            if self._decided.get(key) is not after:
                return [], "another page has changed that label since"
            del self._decided[key]
            if before:
                self._decided[key] = before
            self._write()
            return self.pictures([number]), ""

    def group(self) -> Group | None:
        """Return None: suspects are decided one by one."""
        return None

    def progress(self) -> Progress:
        """Return how far the review is; decisions that are not on disk yet are written if that is possible."""
        with self._lock:
            if self._problem:
                self._write()
            decided = [self._decided[cell_key(each.path)] for each in self._suspects if self._has(each)]
            num_changed = sum(each.label != each.given for each in decided)
            line = f"{len(decided):,} of {len(self._suspects):,} decided · {num_changed:,} corrected"
            counts = Counter(each.label for each in decided)
            return Progress(
                line, tuple((name, counts[name]) for name in self.classes), None, self._problem, tuple(self._notes)
            )

    def _decide(self, page: str, number: int, name: str) -> None:
        key = cell_key(self._suspects[number].path)
        before = self._decided.get(key)
        self._decided[key] = replace(before or self._suspects[number], label=name)
        self._undo[page].append((number, before, self._decided[key]))

    def _take_over(self) -> None:
        """Read what a person has written into the table since it was written here: that counts, and is kept."""
        state = file_state(self.file)
        if self._problem or state is None or state == self._written:  # after a problem, the table lacks decisions
            return
        found = {cell_key(fix.path): fix for fix in read_fixes(self.file)}
        known = self._decided
        self._decided = {key: known[key] if known.get(key) == fix else fix for key, fix in found.items()}
        self._written = state

    def _write(self) -> None:
        rows = [asdict(fix) for fix in self._decided.values()]
        columns = [each.name for each in fields(Fix)]
        try:
            write_csv(pd.DataFrame(rows, columns=columns, dtype=object), self.file)
            self._problem, self._written = "", file_state(self.file)
        except ResourceError as error:
            self._problem = str(error)

    def _has(self, suspect: Fix) -> bool:
        return cell_key(suspect.path) in self._decided

    def _is_decided(self, number: int) -> bool:
        return self._has(self._suspects[number])

    def _require(self, number: int) -> None:
        if not 0 <= number < len(self._suspects):
            raise UsageError(f"no picture {number}", "Load the page again")
