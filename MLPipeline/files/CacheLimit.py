"""Keeps `output/cache/` within its limit: what was used longest ago goes first, what is in use stays."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from MLPipeline.files.Cache import RowStore

_FREE_SHARE = 0.9  # of the free disk that a cache may take
_GB = 10**9

logger = logging.getLogger(__name__)


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
