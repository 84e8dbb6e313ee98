"""On-disk cache of rows that are computed once per image and looked up by the content of the image file.

A store is a folder in `output/cache/` (safe to delete at any time), named after a hash of everything its rows depend
on:

    rows.bin     the rows, appended one after the other
    keys.bin     per row: the digest of the image file and the CRC of the row; written after the row itself, so that a
                 row is valid only if it was written completely, even if the machine crashes

A row is checked against its CRC when it is looked up; a damaged row is computed again, never used. `has_room` keeps the
folder within its limit: the least recently used stores are deleted first.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.Lock import has_locks, held
from MLPipeline.files.Machine import container_memory

FORMAT = 1
DIGEST_BYTES = 16
DEFAULT_LIMIT_GB = 20.0
_MAX_LATEST = 2**16
_FREE_SHARE = 0.9  # the share of the free disk space that a cache may use
_GB = 10**9
_SORTABLE = np.dtype(f"S{DIGEST_BYTES}")
_KEY = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("crc", "<u4")])

logger = logging.getLogger(__name__)


def digest(data: bytes) -> bytes:
    """Return a 16-byte hash (BLAKE2b) of the content of a file."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


class RowStore:
    """An append-only store of rows of one `shape` and `dtype` in `cache/<kind>-<hash of identity>/`.

    `identity` describes everything that the rows depend on besides the image: weights hash, size, precision, versions.
    """

    def __init__(self, cache: Path, kind: str, identity: str, shape: Sequence[int], dtype: np.dtype) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        text = f"{FORMAT} {identity} {self.shape} {self.dtype.str}"
        self.folder = cache / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._rows, self._keys = self.folder / "rows.bin", self.folder / "keys.bin"
        # Packed arrays, for stores of a million rows: the sorted digests with their row numbers, and for each row its
        # CRC and whether it has been checked. Only the most recent rows have Python objects.
        self._sorted = np.empty(0, _SORTABLE), np.empty(0, np.int64)
        self._latest: dict[bytes, int] = {}
        self._crc = array("I")
        self._is_trusted = bytearray()
        self._is_damaged = False

    @contextmanager
    def writing(self) -> Iterator[RowStore]:
        """Open the store for lookups and appends; a second run that needs the same rows waits, then reads them.

        With several ranks, only rank 0 writes.

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
            with (
                held(self.folder / "lock", self.folder),
                open(self._rows, "ab") as self._row_file,
                open(self._keys, "ab") as self._key_file,
            ):
                self._cut()
                self._load()
                ranks.require_shared(self.folder)  # the other ranks wait here until the store is consistent
                ranks.wait()  # after this, they have all read it
                yield self
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def find(self, key: bytes) -> int | None:
        """Return the row number for the digest of an image, or None if there is no valid row. Thread-safe."""
        number = self._number(key)
        if number is None or self._is_trusted[number]:
            return number
        if zlib.crc32(self._loaded[number].tobytes()) != self._crc[number]:
            if not self._is_damaged:
                logger.warning("damaged rows in %s are computed again", self.folder)
            self._is_damaged = True
            return None
        self._is_trusted[number] = True
        return number

    def _number(self, key: bytes) -> int | None:
        if (number := self._latest.get(key)) is not None:
            return number
        digests, numbers = self._sorted
        place = int(digests.searchsorted(key, side="right")) - 1  # the last of equal digests: it replaces a damaged row
        return int(numbers[place]) if place >= 0 and digests[place] == key.rstrip(b"\0") else None

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> list[int]:
        """Append `rows` (B, *shape) of the images with the digests `keys`; return their row numbers."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype).reshape(len(keys), *self.shape)
        first = len(self._crc)
        if not ranks.is_first:  # rank 0 appends the same rows
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
        """Make appended rows visible to ranks on other machines."""
        if ranks.is_first and ranks.size > 1:
            os.fsync(self._row_file.fileno())

    def rows(self) -> np.ndarray:
        """Return all rows (N, *shape), memory-mapped and read-only."""
        with open(self._rows, "rb") as file:  # opening the file shows what other machines have written
            number = file.seek(0, os.SEEK_END) // self.row_bytes
        if not number:
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self._rows, self.dtype, mode="r", shape=(number, *self.shape))

    def _cut(self) -> None:
        """Truncate the files to the complete rows: a killed run may have left a partial one."""
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
        self._sorted = sortable[order], order  # set before `_latest` is emptied, as other threads may be searching
        self._latest = {}


def default_limit_gb() -> float:
    """Return the default of `--cache-limit`: the pages of a container's files count towards its memory limit."""
    return min(DEFAULT_LIMIT_GB, (container_memory() or math.inf) / _GB)


def has_room(cache: Path, store: RowStore, num_rows: int, limit: float | None) -> bool:
    """Return whether `store` may hold `num_rows` rows: within `limit` GB, and within the free space of the disk.

    None stands for `default_limit_gb`.
    To make room, deletes other stores that no process is using, the least recently used first.
    """
    limit = default_limit_gb() if limit is None else limit
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
    keys = folder / "keys.bin"  # modified by every run that opens the store
    return keys.stat().st_mtime if keys.exists() else 0.0


def _delete(folder: Path) -> bool:
    """Delete a store and return whether that succeeded; a store that another process may be writing to is kept."""
    try:
        if not has_locks(folder):
            return False
        with held(folder / "lock", folder, timeout_s=0):
            for name in ("keys.bin", "rows.bin"):  # in this order: rows without keys are ignored
                (folder / name).unlink(missing_ok=True)
    except (ResourceError, OSError):  # Windows also refuses to delete memory-mapped files
        return False
    logger.info("%s deleted to keep the cache within its limit", folder)
    return True


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if os.path.isdir(each))
