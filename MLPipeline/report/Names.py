"""The names of classes and files as they are displayed: on one line, cut to the room there is."""

from __future__ import annotations

import unicodedata

_JOINERS = {ord("\N{ZERO WIDTH JOINER}"): None, ord("\N{ZERO WIDTH NON-JOINER}"): None}


def drawable(name: str, max_length: int) -> str:
    """Return `name` on one line of printable characters, at most `max_length` columns wide, shortened in the middle.

    Long class names differ at their ends as often as at their beginnings, so both are kept. Characters that cannot be
    printed become U+FFFD; the joiners between emoji and between Persian letters are left out.
    """
    words = " ".join(name.translate(_JOINERS).split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
    if width(line) <= max_length:
        return line
    tail = (max_length - 1) // 2
    return f"{_fitting(line, max_length - 1 - tail)}…{_fitting(line[::-1], tail)[::-1]}"


def width(text: str) -> int:
    """Return how many columns `text` takes: Chinese, Japanese and Korean characters and emoji take two."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _fitting(text: str, max_width: int) -> str:
    """Return the longest beginning of `text` that is at most `max_width` columns wide."""
    taken = 0
    for length, letter in enumerate(text):
        taken += _columns(letter)
        if taken > max_width:
            return text[:length]
    return text
