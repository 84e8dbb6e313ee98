"""Checks of values in files that anyone may have written: of their range, not only of their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_TEXT = 4096  # characters


def is_number(value: Any, low: float, high: float) -> bool:
    """Return whether `value` is a number from `low` to `high`: not NaN, and no truth value, which Python counts as 1.

    Python compares whole numbers of any size exactly, so this never raises.
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int) -> bool:
    """Return whether `value` is a whole number from `low` to `high`, and of type int."""
    return isinstance(value, int) and is_number(value, low, high)


def is_text(value: Any) -> bool:
    """Return whether `value` is a text of sensible length."""
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def is_usable_text(value: str) -> bool:
    """Return whether `value` is a text of sensible length that can be part of a file's name."""
    try:
        return is_text(value) and b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name
        return False


def are_texts(value: Any) -> bool:
    """Return whether `value` maps texts to texts."""
    return isinstance(value, Mapping) and all(is_text(each) for pair in value.items() for each in pair)


def shown(value: Any) -> str:
    """Return `value` as an error message shows it: cut to 60 characters, or only its type if it is not a plain one."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a huge number"  # Python refuses to print whole numbers of thousands of digits
    if not isinstance(value, (str, int, float, type(None))):
        return f"of type {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
