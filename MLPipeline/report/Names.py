"""How the names of classes and files look where they are shown: one line, no longer than there is room."""

from __future__ import annotations


def drawable(name: str, max_length: int) -> str:
    """Return `name` on one line of printable characters, at most `max_length` long, cut in its middle.

    The middle goes because long class names differ at their ends as often as at their beginnings.
    """
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    if len(line) <= max_length:
        return line
    tail = (max_length - 1) // 2
    return f"{line[: max_length - 1 - tail]}…{line[len(line) - tail :]}"
