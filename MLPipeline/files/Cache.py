"""Rows computed once per image and kept on disk, found again by what the image file contains.

A store is a folder of `output/cache/` (safe to delete at any time) named by everything its rows depend on:

    rows.bin     the rows, one after the other, appended
    keys.bin     per row: digest of the image file, CRC of the row; written after the rows, so that a row counts only
                 once it is whole, whenever the machine died

A row is checked against its CRC when found, so a damaged one is computed again, never used. `has_room` keeps the folder
within its limit: the stores used longest ago are deleted first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.files.AtomicFile import unwritable

FORMAT = 1
DIGEST_BYTES = 16
_MAX_LATEST = 2**16
_FREE_SHARE = 0.9  # of the free disk that a cache may take
_GB = 10**9
_SORTABLE = np.dtype(f"S{DIGEST_BYTES}")
_KEY = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("crc", "<u4")])

logger = logging.getLogger(__name__)


def digest(data: bytes) -> bytes:
    """Return the 16 bytes that stand for the content of a file."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


class RowStore:
    """Append-only rows of one `shape` and `dtype` in `cache/<kind>-<hash of identity>/`.

    `identity` is all the rows depend on besides the image: weights hash, size, precision, versions.
    """

    def __init__(self, cache: Path, kind: str, identity: str, shape: Sequence[int], dtype: np.dtype) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        text = f"{FORMAT} {identity} {self.shape} {self.dtype.str}"
        self.folder = cache / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._rows, self._keys = self.folder / "rows.bin", self.folder / "keys.bin"
        # Packed, for a million rows: the digests in order with their row numbers, and per row its CRC and whether it
        # was checked. Only the latest rows have Python objects.
        self._sorted = np.empty(0, _SORTABLE), np.empty(0, np.int64)
        self._latest: dict[bytes, int] = {}
        self._crc = array("I")
        self._is_trusted = bytearray()
        self._is_damaged = False

    @contextmanager
    def writing(self) -> Iterator[RowStore]:
        """Open for finding and appending; another run that wants the same rows waits, then finds them made.

        Of several ranks, rank 0 alone writes.

        Raises:
            ResourceError: the disk is full or the cache cannot be written.
        """
        try:
            if not ranks.is_first:
                ranks.require_shared(self.folder)
                self._load()
                ranks.wait()
                yield self
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(), open(self._rows, "ab") as self._row_file, open(self._keys, "ab") as self._key_file:
                self._cut()
                self._load()
                ranks.require_shared(self.folder)  # until here the others wait for it to be whole,
                ranks.wait()  # and from here on they have read it
                yield self
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def find(self, key: bytes) -> int | None:
        """Return the row number of an image's digest, or None. Safe to call from several threads."""
        number = self._number(key)
        if number is None or self._is_trusted[number]:
            return number
        if zlib.crc32(self._loaded[number].tobytes()) != self._crc[number]:
            if not self._is_damaged:
                logger.warning("damaged rows in %s are made anew", self.folder)
            self._is_damaged = True
            return None
        self._is_trusted[number] = True
        return number

    def _number(self, key: bytes) -> int | None:
        if (number := self._latest.get(key)) is not None:
            return number
        digests, numbers = self._sorted
        place = int(digests.searchsorted(key, side="right")) - 1  # the last of equals: a damaged row made anew
        return int(numbers[place]) if place >= 0 and digests[place] == key.rstrip(b"\0") else None

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> list[int]:
        """Keep `rows` (B, *shape) of the images with these digests; return their numbers."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype).reshape(len(keys), *self.shape)
        first = len(self._crc)
        if not ranks.is_first:  # which appends the same
            return list(range(first, first + len(keys)))
        entries = np.empty(len(keys), _KEY)
        for offset, (key, row) in enumerate(zip(keys, rows, strict=True)):
            crc = zlib.crc32(row.tobytes())
            entries[offset] = (np.void(key), crc)
            self._crc.append(crc)
            self._is_trusted.append(True)
            self._latest[key] = first + offset
        self._row_file.write(rows.tobytes())
        self._row_file.flush()
        self._key_file.write(entries.tobytes())
        self._key_file.flush()
        if len(self._latest) > _MAX_LATEST:
            self._pack(np.fromfile(self._keys, _KEY)["digest"])
        return list(range(first, first + len(keys)))

    def publish(self) -> None:
        """Make what was appended visible to ranks on other machines."""
        if ranks.is_first and ranks.size > 1:
            os.fsync(self._row_file.fileno())

    def rows(self) -> np.ndarray:
        """Return all rows (N, *shape), memory-mapped and read-only."""
        with open(self._rows, "rb") as file:  # opened, a file shows what other machines have written
            number = file.seek(0, os.SEEK_END) // self.row_bytes
        if not number:
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self._rows, self.dtype, mode="r", shape=(number, *self.shape))

    def _locked(self) -> AbstractContextManager:
        lock = FileLock(self.folder / "lock")
        try:
            return lock.acquire(timeout=0.2)
        except Timeout:
            logger.warning("waiting for another run that fills %s", self.folder)
            return lock.acquire()

    def _cut(self) -> None:
        """Cut off what a killed run left half-written."""
        num_keys = self._keys.stat().st_size // _KEY.itemsize
        number = min(num_keys, self._rows.stat().st_size // self.row_bytes)
        self._key_file.truncate(number * _KEY.itemsize)
        self._row_file.truncate(number * self.row_bytes)

    def _load(self) -> None:
        keys = np.fromfile(self._keys, _KEY)
        self._crc = array("I", keys["crc"].tobytes())
        self._is_trusted = bytearray(len(keys))
        self._pack(keys["digest"])
        self._loaded = self.rows()

    def _pack(self, digests: np.ndarray) -> None:
        sortable = np.ascontiguousarray(digests).view(_SORTABLE)
        order = np.argsort(sortable, kind="stable")
        self._sorted = sortable[order], order  # before the latest go, for threads that search
        self._latest = {}


def has_room(cache: Path, store: RowStore, num_rows: int, limit: float) -> bool:
    """Return whether `num_rows` rows may lie in `store`, and make room for them: within `limit` GB, and on the disk.

    Deletes stores that no process is using, those used longest ago first.
    """
    needed = num_rows * store.row_bytes
    if needed > limit * _GB:
        return False
    sizes = {folder: _size(folder) for folder in _stores(cache)}
    growth = needed - sizes.pop(store.folder, 0)
    total = sum(sizes.values())
    for folder in sorted(sizes, key=_last_used):
        if total + needed <= limit * _GB:
            break
        if _delete(folder):
            total -= sizes[folder]
    return growth <= 0 or growth <= _FREE_SHARE * shutil.disk_usage(_existing(cache)).free


def _stores(cache: Path) -> list[Path]:
    return [path.parent for path in cache.glob("*/rows.bin")]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _last_used(folder: Path) -> float:
    keys = folder / "keys.bin"  # touched by every run that opens the store
    return keys.stat().st_mtime if keys.exists() else 0.0


def _delete(folder: Path) -> bool:
    """Return whether the store is gone; one that a process is filling stays."""
    try:
        with FileLock(folder / "lock", timeout=0):
            for name in ("keys.bin", "rows.bin"):  # in this order: rows without keys count for nothing
                (folder / name).unlink(missing_ok=True)
    except (Timeout, OSError):  # Windows also keeps files that a run has mapped
        return False
    logger.info("%s deleted to keep the cache within its limit", folder)
    return True


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if os.path.isdir(each))
