"""On-disk cache of rows that are computed once per image and looked up by the content of the image file.

A store is a folder in `output/cache/` (safe to delete at any time), named after a hash of everything its rows depend
on:

    rows.bin     the rows, appended one after the other
    keys.bin     per row: the digest of the image file and a signature of both; written after the row itself, so that a
                 row is valid only if it was written completely, even if the machine crashes

A row is checked against its signature, with the user's key, when it is looked up; a row that is damaged or that someone
else has written is computed again, never used. Each key has its own stores. `has_room` keeps the folder within its
limit: the least recently used stores are deleted first.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.CacheFiles import make_folder, open_plain, remove_foreign, sound_cache
from MLPipeline.files.CacheKey import cache_key, store_key
from MLPipeline.files.Lock import has_locks, held
from MLPipeline.files.Machine import container_memory
from MLPipeline.files.OncePerMachine import once_per_machine

FORMAT, _UNSIGNED_FORMAT = 2, 1
DIGEST_BYTES = 16
DEFAULT_LIMIT_GB = 20.0
_MAX_LATEST = 2**16
_FREE_SHARE = 0.9  # the share of the free disk space that a cache may use
_GB = 10**9
_SORTABLE = np.dtype(f"S{DIGEST_BYTES}")
_SIGNATURE_BYTES = 8  # a forger has to try it out here, at a rate of a million rows per second
_KEY = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("signature", "<u8")])
_SORTABLE_KEY, _LAST_SIGNATURE = np.dtype(f"S{_KEY.itemsize}"), b"\xff" * _SIGNATURE_BYTES

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
        self._cache, self._kind = sound_cache(cache), kind
        self._about = f"{identity} {self.shape} {self.dtype.str}"
        self._use_key(cache_key(self._cache))
        # For stores of a million rows: the keys, memory-mapped, with their order by digest, which the ranks of a
        # machine share; for each row, whether it has been checked. Only the most recent rows have Python objects.
        self._sorted = np.empty(0, _KEY), np.empty(0, np.int64)
        self._latest: dict[bytes, int] = {}
        self._is_trusted = bytearray()
        self._is_damaged = False

    def _use_key(self, key: bytes) -> None:
        own_key = store_key(key, self._about)
        self._unsigned = hashlib.blake2b(key=own_key, digest_size=_SIGNATURE_BYTES)
        self.folder = self._folder(f"{FORMAT} {self._about} {own_key.hex()}")
        self._rows, self._keys = self.folder / "rows.bin", self.folder / "keys.bin"

    def _folder(self, text: str) -> Path:
        return self._cache / f"{self._kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _sign(self, key: bytes, row: bytes) -> int:
        """Return the signature of a row and of the image that it belongs to."""
        state = self._unsigned.copy()
        state.update(key)
        state.update(row)
        return int.from_bytes(state.digest(), "little")

    @contextmanager
    def writing(self) -> Iterator[RowStore]:
        """Open the store for lookups and appends; a second run that needs the same rows waits, then reads them.

        With several ranks, only rank 0 writes.

        Raises:
            ResourceError: the disk is full or the cache cannot be written.
        """
        try:
            if ranks.size > 1:  # the other ranks may run on machines with keys of their own
                self._use_key(ranks.from_first(cache_key(self._cache)))
            if not ranks.is_first:
                ranks.require_shared(self.folder)
                self._load()
                ranks.wait()
                yield self
                return
            self._replace_unsigned()
            make_folder(self.folder)
            remove_foreign(self.folder / "lock")  # opening a lock empties it
            with (
                held(self.folder / "lock", self.folder),
                open_plain(self._rows, "ab") as self._row_file,
                open_plain(self._keys, "ab") as self._key_file,
            ):
                self._cut()
                ranks.require_shared(self.folder)  # the other ranks wait here until the store is consistent
                self._load()
                ranks.wait()  # after this, they have all read it
                yield self
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def find(self, key: bytes) -> int | None:
        """Return the row number for the digest of an image, or None if there is no valid row. Thread-safe."""
        number = self._number(key)
        if number is None or self._is_trusted[number]:
            return number
        if self._sign(key, self._loaded[number].tobytes()) != int(self._loaded_keys["signature"][number]):
            if not self._is_damaged:
                logger.warning("damaged or foreign rows in %s are computed again", self.folder)
            self._is_damaged = True
            return None
        self._is_trusted[number] = True
        return number

    def _number(self, key: bytes) -> int | None:
        if (number := self._latest.get(key)) is not None:
            return number
        keys, order = self._sorted
        # The last of equal digests, whatever their signatures: it replaces a damaged row.
        place = int(keys.view(_SORTABLE_KEY).searchsorted(key + _LAST_SIGNATURE, side="right", sorter=order)) - 1
        number = int(order[place]) if place >= 0 else 0
        return number if place >= 0 and keys["digest"][number].tobytes() == key else None

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> list[int]:
        """Append `rows` (B, *shape) of the images with the digests `keys`; return their row numbers."""
        rows = np.ascontiguousarray(rows, dtype=self.dtype).reshape(len(keys), *self.shape)
        first = len(self._is_trusted)
        if not ranks.is_first:  # rank 0 appends the same rows
            return list(range(first, first + len(keys)))
        entries = np.empty(len(keys), _KEY)
        for offset, (key, row) in enumerate(zip(keys, rows, strict=True)):
            entries[offset] = (np.void(key), self._sign(key, row.tobytes()))
            self._is_trusted.append(True)
            self._latest[key] = first + offset
        self._row_file.write(rows.tobytes())
        self._row_file.flush()
        self._key_file.write(entries.tobytes())
        self._key_file.flush()
        if len(self._latest) > _MAX_LATEST:
            written = self._map_keys()
            self._sorted = written, _order(written)
            self._latest = {}  # only now: other threads may be searching
        return list(range(first, first + len(keys)))

    def publish(self) -> None:
        """Make appended rows visible to ranks on other machines."""
        if ranks.is_first and ranks.size > 1:
            os.fsync(self._row_file.fileno())

    def rows(self) -> np.ndarray:
        """Return all rows (N, *shape), memory-mapped and read-only."""
        with open_plain(self._rows, "rb") as file:  # opening the file shows what other machines have written
            number = file.seek(0, os.SEEK_END) // self.row_bytes
            if not number:
                return np.empty((0, *self.shape), self.dtype)
            return np.memmap(file, self.dtype, mode="r", shape=(number, *self.shape))

    def _cut(self) -> None:
        """Truncate the files to the complete rows: a killed run may have left a partial one."""
        num_keys = self._keys.stat().st_size // _KEY.itemsize
        number = min(num_keys, self._rows.stat().st_size // self.row_bytes)
        self._key_file.truncate(number * _KEY.itemsize)
        self._row_file.truncate(number * self.row_bytes)

    def _load(self) -> None:
        keys = self._map_keys()
        self._sorted, self._latest = (keys, once_per_machine(lambda: _order(keys), self._cache)), {}
        self._loaded_keys, self._loaded, self._is_trusted = keys, self.rows(), bytearray(len(keys))

    def _map_keys(self) -> np.ndarray:
        """Return the keys of all rows (N,) _KEY, memory-mapped and read-only."""
        with open_plain(self._keys, "rb") as file:
            number = file.seek(0, os.SEEK_END) // _KEY.itemsize
            if not number:
                return np.empty(0, _KEY)
            return np.memmap(file, _KEY, mode="r", shape=(number,)).view(np.ndarray)

    def _replace_unsigned(self) -> None:
        """Delete the store of an earlier version, whose rows are not signed; say so."""
        unsigned = self._folder(f"{_UNSIGNED_FORMAT} {self._about}")
        if not self.folder.exists() and not unsigned.is_symlink() and (unsigned / "rows.bin").exists():
            logger.warning("%s is of an earlier version, whose rows are not signed: they are computed again", unsigned)
            _delete(unsigned)


def _order(keys: np.ndarray) -> np.ndarray:
    """Return the row numbers (N,) int64 by digest; of equal digests, the oldest row first."""
    return np.argsort(np.ascontiguousarray(keys["digest"]).view(_SORTABLE), kind="stable")


def default_limit_gb() -> float:
    """Return the default of `--cache-limit`: the pages of a container's files count towards its memory limit."""
    return min(DEFAULT_LIMIT_GB, (container_memory() or math.inf) / _GB)


def has_room(cache: Path, store: RowStore, num_rows: int, limit: float | None) -> bool:
    """Return whether `store` may hold `num_rows` rows: within `limit` GB, and within the free space of the disk.

    None stands for `default_limit_gb`.
    To make room, deletes other stores that no process is using, the least recently used first.
    """
    limit = default_limit_gb() if limit is None else limit
    cache, needed = sound_cache(cache), num_rows * store.row_bytes
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
    return [path.parent for path in cache.glob("*/rows.bin") if not path.parent.is_symlink()]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.iterdir())


def _last_used(folder: Path) -> float:
    keys = folder / "keys.bin"  # modified by every run that opens the store
    return keys.lstat().st_mtime if keys.exists() else 0.0


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
