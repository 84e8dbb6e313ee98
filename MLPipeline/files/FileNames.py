"""Names for new files and folders: visible characters only, and no longer than the file system allows."""

from __future__ import annotations

import os
from pathlib import Path

from MLPipeline.Errors import INVISIBLE

_MAX_BYTES = 255  # of most file systems; used where the system does not report its own limit
_MAX_SUFFIX_BYTES = 20  # what is longer is not the suffix of a file type


def longest_name(folder: Path) -> int:
    """Return the number of bytes that a name in `folder`, which need not exist yet, may have."""
    existing = next((each for each in (folder, *folder.parents) if os.path.isdir(each)), Path())
    try:
        return max(os.pathconf(existing, "PC_NAME_MAX"), 16)
    except (OSError, ValueError, AttributeError):  # Windows has no `pathconf`
        return _MAX_BYTES


def visible_name(name: str) -> str:
    """Return `name` with `_` for each control character and each invisible character."""
    return INVISIBLE.sub("_", name)


def shorten(text: str, max_bytes: int) -> str:
    """Return the beginning of `text` that has at most `max_bytes` bytes; no character is cut in two."""
    content = os.fsencode(text)
    if len(content) <= max_bytes:
        return text
    end = max_bytes
    while end and content[end] & 0xC0 == 0x80:  # a byte inside a character of UTF-8
        end -= 1
    return os.fsdecode(content[: end or max_bytes])


def numbered_name(name: str, number: int, max_bytes: int = _MAX_BYTES) -> str:
    """Return `name` for number 1, else with the number before the suffix: `cat-2.jpg`; the stem is cut to fit."""
    stem, suffix = os.path.splitext(name)
    if len(os.fsencode(suffix)) > _MAX_SUFFIX_BYTES:
        stem, suffix = name, ""
    end = suffix if number == 1 else f"-{number}{suffix}"
    return shorten(stem, max_bytes - len(os.fsencode(end))) + end
