"""Index -> inspection: every new image is decoded once, in full, before training; later runs do not read it again.

    inspection = inspect_images(index, cache=Path("output/cache"), workers=2)
    inspection.prints["width"]        one packed record per image, in the order of the index

The cache has two stores: one maps the digest of a file to its row, the other maps the path, size and times of a file
to its digest. So a renamed or copied image is read but not decoded, and an unchanged image is not even opened.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.Levels import EACH_ITS_OWN, Levels, find_levels, unknown_depth
from MLPipeline.decoding.ReadImage import UnreadableImage, read_bytes
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError
from MLPipeline.files.Cache import DIGEST_BYTES, RowStore, digest
from MLPipeline.files.OncePerMachine import once_per_machine
from MLPipeline.images.Fingerprint import DEEP, FINGERPRINT, IDENTITY, NOTED, ROW, UNREADABLE, make_rows
from MLPipeline.images.ImageWalk import Skipped, count_reasons
from MLPipeline.images.ReadAhead import Progress, no_progress, read_ahead
from MLPipeline.images.ScanFolders import UNSPLIT, ImageIndex

VANISHED = os.strerror(errno.ENOENT).lower()
MAX_VANISHED = 0.01  # share of the files that may vanish between listing and reading them
_BYTES = np.dtype(np.uint8)
_HANDED_OVER = 256  # findings that a rank collects before they are written
_AT_ONCE = 16  # files that a thread processes at once: fewer switches of the interpreter lock
_BYTES_AT_ONCE = 2**22  # of decoded pixels per thread, if they are kept


@dataclass(frozen=True)
class Inspection:
    """What is known of each image of an index, in its order."""

    prints: np.ndarray  # (N,) FINGERPRINT; 65 bytes per image
    rows: np.ndarray  # (M,) ROW, memory-mapped
    numbers: np.ndarray  # (N,) int32 row of each image; -1: the file could not be opened
    unopened: dict[int, str]  # position -> reason
    num_read: int  # files that were read; the others had not changed
    seconds: float = 0.0  # duration of the inspection
    levels: Levels = EACH_ITS_OWN  # those of images of more than 8 bits in `prints` and `thumbnails`

    @property
    def is_readable(self) -> np.ndarray:
        """Which images can be used: (N,) bool."""
        return (self.prints["flags"] & UNREADABLE) == 0

    def thumbnails(self, positions: np.ndarray) -> np.ndarray:
        """Return the grey thumbnails (B, 64, 64) uint8 of readable images."""
        small = self.rows["thumbnail"][self.numbers[positions]]
        deep = np.flatnonzero(self.prints["flags"][positions] & DEEP)
        if len(deep):
            factor, summand = self.levels.changes(*self.measured(positions[deep]))
            small[deep] = _rescaled(small[deep], factor[:, None, None], summand[:, None, None])
        return small

    def levels_of(self, positions: np.ndarray) -> Levels:
        """Return the levels of the images at `positions`; training uses those of the training images."""
        deep = positions[(self.prints["flags"][positions] & DEEP) > 0]
        return find_levels(*self.measured(deep))

    def measured(self, positions: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the depth, the lowest and the highest value of each image of more than 8 bits at `positions`."""
        numbers = self.numbers[positions]
        return [depth.decode() for depth in self.rows["depth"][numbers].tolist()], *(
            self.rows[name][numbers] for name in ("low", "high")
        )

    def unknown_depths(self, index: ImageIndex, levels: Levels | None) -> tuple[Skipped, ...]:
        """Return the images in a split whose depth is missing from `levels`, each with a note."""
        if levels is None:
            return ()
        deep = np.flatnonzero((self.prints["flags"] & DEEP > 0) & (index.splits != UNSPLIT))
        depths = self.measured(deep)[0]
        return tuple(
            Skipped(index.name(position), unknown_depth(depth))
            for position, depth in zip(deep.tolist(), depths, strict=True)
            if depth not in levels.by_depth
        )

    def row_keys(self, levels: Levels | None) -> np.ndarray:
        """Return the key (N,) V16 under which the rows of each image are stored: see `Preprocessing.key`."""
        deep = np.flatnonzero(self.prints["flags"] & DEEP)
        if levels is None or not len(deep):
            return self.prints["digest"]  # no copy: 16 bytes per image
        keys = self.prints["digest"].copy()
        for position in deep.tolist():
            keys[position] = np.void(levels.key(keys[position].tobytes()))
        return keys

    def skipped(self, index: ImageIndex) -> tuple[Skipped, ...]:
        """Return the images that cannot be used, with reasons."""
        return self._remarks(index, UNREADABLE)

    def notes(self, index: ImageIndex) -> tuple[Skipped, ...]:
        """Return the images that are used although they are unusual, each with a remark."""
        return self._remarks(index, NOTED)

    def _remarks(self, index: ImageIndex, flag: int) -> tuple[Skipped, ...]:
        positions = np.flatnonzero(self.prints["flags"] & flag).tolist()
        return tuple(Skipped(index.name(position), self._remark(position)) for position in positions)

    def _remark(self, position: int) -> str:
        number = int(self.numbers[position])
        return self.unopened[position] if number < 0 else self.rows["note"][number].decode()


@dataclass
class Finding:
    """The result of reading one file."""

    position: int
    state: bytes = b""
    content: bytes = b""  # digest of its bytes
    number: int | None = None  # of its row, if the store has it already
    row: np.ndarray | None = None  # its row, if it is new
    pixels: np.ndarray | None = None  # (S, S, 3) uint8 RGB, if it is new and the keeper needs them
    error: str = ""  # why it could not be opened

    @property
    def is_new(self) -> bool:
        """Whether the store has no row for the content of the file."""
        return not self.error and self.number is None


class Keeper(Protocol):
    """Uses the pixels of the decoded images: squares of side `image_size`, fitted by the method `fit`."""

    image_size: int
    fit: str

    def keep(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        """Yield the findings in order, after using their pixels."""


def inspect_images(
    index: ImageIndex,
    cache: Path,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
    keeper: Keeper | None = None,
) -> Inspection:
    """Return the inspection of all images of `index`; reads only files that have changed, or all files with `verify`.

    All decoded images pass through `keeper`, if one is given, so that training need not decode them again. A file has
    changed if its path, size, times or inode have changed. With several ranks, each reads its share and rank 0 writes.

    Raises:
        DataError: no image can be read, or more than 1 % have vanished since the scan.
        ResourceError: the cache cannot be written.
    """
    start = time.perf_counter()
    contents = RowStore(cache, "files", str(index.root.resolve()), (DIGEST_BYTES,), _BYTES)
    store = RowStore(cache, "fingerprints", IDENTITY, (ROW.itemsize,), _BYTES)
    with contents.writing(), store.writing():
        files = _Files(index, contents, store, keeper)
        mine = np.arange(*ranks.dealt.indices(len(index)))
        changed = mine if verify else files.recall(mine)
        chunks = (changed[first : first + files.at_once].tolist() for first in range(0, len(changed), files.at_once))
        findings: Iterator[Finding] = chain.from_iterable(read_ahead(files.read, chunks, workers))
        findings = keeper.keep(findings) if keeper else findings
        if len(changed):
            findings = iter(progress(findings, "inspecting", len(changed)))
        for finding in ranks.in_step(findings, len(changed), _HANDED_OVER, files.hand_over):
            files.add(finding)
        files.share()
        rows = store.rows().view(ROW)[:, 0]
        (num_read,) = ranks.sum(len(changed))
    prints, numbers, levels = once_per_machine(lambda: _describe(index, rows, files), cache)
    seconds = time.perf_counter() - start
    return Inspection(prints, rows, numbers, files.unopened, int(num_read), seconds, levels)


class _Files:
    """The files of an index, and the numbers of the rows that are known so far."""

    def __init__(self, index: ImageIndex, contents: RowStore, store: RowStore, keeper: Keeper | None) -> None:
        self.index, self.contents, self.store = index, contents, store
        self.image_size, self.fit = (keeper.image_size, keeper.fit) if keeper else (0, STRETCH)
        self.at_once = max(1, min(_AT_ONCE, _BYTES_AT_ONCE // (3 * self.image_size**2 or 1)))
        self.numbers = np.full(len(index), -1, np.int32)
        self.unopened: dict[int, str] = {}
        self.findings: list[Finding] = []  # not yet sent to rank 0

    def recall(self, positions: np.ndarray) -> np.ndarray:
        """Find the rows of the files that have not changed; return the positions (M,) of the others."""
        known = self.contents.rows()
        for position in map(int, positions):  # a list of a million numbers would take 40 MB
            place = self.contents.find(_state(self.index.path(position)))
            number = None if place is None else self.store.find(known[place].tobytes())
            self.numbers[position] = -1 if number is None else number
        return positions[self.numbers[positions] < 0]

    def read(self, positions: Sequence[int]) -> list[Finding]:
        """Read files and decode those whose content has no row yet. Safe to call from several threads."""
        findings: list[Finding] = []
        rows, pixels = make_rows(self._unknown(positions, findings), self.image_size, self.fit)
        made = zip(rows, pixels, strict=True)
        for finding in findings:
            if finding.is_new:
                finding.row, finding.pixels = next(made)
        return findings

    def _unknown(self, positions: Sequence[int], findings: list[Finding]) -> Iterator[bytes]:
        """Yield the content of each file that needs a row, one at a time; add a finding for every file."""
        for position in positions:
            path = self.index.path(position)
            state = _state(path)  # before reading: if the file changes in between, the next run notices it
            try:
                data = read_bytes(path)
            except UnreadableImage as error:
                findings.append(Finding(position, error=error.reason))
                continue
            content = digest(data)
            findings.append(Finding(position, state, content, self.store.find(content)))
            if findings[-1].is_new:
                yield data

    def add(self, finding: Finding) -> None:
        """Add a finding without its pixels, which have already been used."""
        finding.pixels = None
        self.findings.append(finding)

    def hand_over(self) -> None:
        """Send the findings of all ranks to rank 0, which stores them."""
        for findings in ranks.to_first(self.findings):
            self._keep(findings)
        self.findings = []

    def share(self) -> None:
        """Exchange the findings, so that every rank knows the row of every file."""
        self.hand_over()
        self.store.publish()
        ranks.share_numbers(self.numbers)
        self.unopened = ranks.from_first(self.unopened)

    def _keep(self, findings: Sequence[Finding]) -> None:
        """Store findings, for this run and later ones."""
        self.unopened |= {each.position: each.error for each in findings if each.error}
        read = [each for each in findings if not each.error]
        made = [each for each in read if each.is_new]
        if made:
            rows = np.array([each.row for each in made], ROW).view(np.uint8).reshape(len(made), -1)
            self.numbers[[each.position for each in made]] = self.store.append([each.content for each in made], rows)
        for each in read:
            if each.number is not None:
                self.numbers[each.position] = each.number
        if read:
            contents = np.frombuffer(b"".join(each.content for each in read), np.uint8).reshape(len(read), -1)
            self.contents.append([each.state for each in read], contents)


def _state(path: Path) -> bytes:
    """Return a digest of the state of a file: its path, size, times and inode."""
    try:
        status = os.stat(path)
    except OSError:
        return os.urandom(DIGEST_BYTES)  # never in the store, so the file is read, and reading reports the error
    times = status.st_mtime_ns, status.st_ctime_ns  # ctime changes even if a tool resets mtime
    return digest(os.fsencode(path) + f"\0{status.st_size} {times} {status.st_ino}".encode())


def _prints(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    prints = np.zeros(len(numbers), FINGERPRINT)
    prints["flags"] = UNREADABLE
    prints[numbers >= 0] = rows["print"][numbers[numbers >= 0]]
    return prints


def _describe(index: ImageIndex, rows: np.ndarray, files: _Files) -> tuple[np.ndarray, np.ndarray, Levels]:
    """Return the fingerprints (N,) FINGERPRINT, the numbers of their rows (N,) int32, and their levels."""
    inspection = Inspection(_prints(rows, files.numbers), rows, files.numbers, files.unopened, 0)
    _check(index, inspection)
    inspection = _levelled(inspection)
    return inspection.prints, inspection.numbers, inspection.levels


def _levelled(inspection: Inspection) -> Inspection:
    """Return the inspection with images of more than 8 bits measured at their common levels instead of their own."""
    deep = np.flatnonzero(inspection.prints["flags"] & DEEP)
    if not len(deep):
        return inspection
    levels = inspection.levels_of(deep)
    factor, summand = levels.changes(*inspection.measured(deep))
    prints = inspection.prints[deep]
    for name in ("brightness", "shadow", "light", "colour", "border"):
        shape = (-1,) + (1,) * (prints[name].ndim - 1)
        prints[name] = _rescaled(prints[name], factor.reshape(shape), summand.reshape(shape))
    for name in ("contrast", "saturation", "border_contrast"):
        prints[name] = _rescaled(prints[name], factor, np.zeros_like(summand))
    prints["sharpness"] *= factor**2
    inspection.prints[deep] = prints
    return replace(inspection, levels=levels)


def _rescaled(greys: np.ndarray, factor: np.ndarray, summand: np.ndarray) -> np.ndarray:
    return np.rint((greys * factor + summand).clip(0, 255)).astype(np.uint8)


def _check(index: ImageIndex, inspection: Inspection) -> None:
    vanished = sum(reason == VANISHED for reason in inspection.unopened.values())
    if vanished > max(1, MAX_VANISHED * len(index)):
        what = f"{index.root}: {vanished} of {len(index)} files have vanished since the folders were listed"
        raise DataError(what, "Do not change the folder while it is read, and run the same command again")
    if not inspection.is_readable.any():
        what = f"{index.root}: none of {len(index)} images can be read"
        raise DataError(what, count_reasons(inspection.skipped(index)))
