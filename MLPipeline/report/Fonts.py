"""Which fonts draw the names of classes in PNG plots, and which names no font on this system can draw.

DejaVu Sans ships with matplotlib and covers Latin, Greek, Cyrillic, Arabic and Hebrew. For every other script a font
is looked up among those installed on the system; a name that none of them covers is replaced by a number.
matplotlib is imported only when a name needs it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEFAULT_FAMILY = "DejaVu Sans"
_FIRST_UNCERTAIN = 0x250  # DejaVu Sans has every printable character below: Latin and its extensions
_FIRST_SHAPING_VERSION = (3, 11)  # of matplotlib: from there on text is shaped and laid out right to left
# Blocks whose letters change their form or order with their neighbours: Hebrew to Thaana, Devanagari to Sinhala,
# Tibetan and Myanmar, Khmer, Arabic presentation forms.
_SHAPED = ((0x590, 0x8FF), (0x900, 0xDFF), (0xF00, 0x109F), (0x1780, 0x17FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFC))
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_OTHER_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "mono", "condensed", "lastresort")


def figure_names(classes: Sequence[str]) -> dict[str, str]:
    """Return the name under which each class appears in a PNG plot: its own, or `class 3` where no font has it.

    The number is the line of the class in `classes.txt`.
    """
    prefix = next(word for word in ("class", "number", "#") if not any(name.startswith(word) for name in classes))
    return {name: name if is_drawable(name) else f"{prefix} {number}" for number, name in enumerate(classes, start=1)}


def is_drawable(name: str) -> bool:
    """Return whether the fonts of this system have every character of `name` and matplotlib lays them out legibly."""
    needed = _characters(name)
    return not needed or (_lays_out(needed) and not families_for(name)[1])


def families_for(text: str) -> tuple[list[str], frozenset[str]]:
    """Return the font families that draw `text`, in order of preference, and the characters that none of them has."""
    return _families_for(_characters(text))


@functools.cache
def _families_for(needed: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    families = [DEFAULT_FAMILY]
    missing = needed - _drawn_by(_default_font(), needed) if needed else needed
    for path in _system_fonts() if missing else ():
        if found := _drawn_by(path, missing):
            families.append(_register(path))
            missing -= found
        if not missing:
            break
    return families, missing


def _characters(text: str) -> frozenset[str]:
    """Return the characters of `text` that a font must have and that DejaVu Sans may lack."""
    return frozenset(
        letter
        for letter in text
        if ord(letter) >= _FIRST_UNCERTAIN
        and letter.isprintable()
        and not letter.isspace()
        and ord(letter) not in _VARIATION_SELECTORS
    )


def _lays_out(letters: Iterable[str]) -> bool:
    import matplotlib

    if matplotlib.__version_info__[:2] >= _FIRST_SHAPING_VERSION:
        return True
    return not any(low <= ord(letter) <= high for letter in letters for low, high in _SHAPED)


def _default_font() -> str:
    from matplotlib import font_manager

    return font_manager.findfont(DEFAULT_FAMILY)


def _system_fonts() -> Iterator[str]:
    """Yield the files of upright sans-serif fonts of normal weight first, then those of all others.

    matplotlib's own list is a cache, which does not know fonts that were installed after it was written.
    """
    from matplotlib import font_manager

    def unsuitability(path: str) -> tuple[int, bool, str]:
        name = Path(path).name.lower().replace("-", "").replace(" ", "")
        return sum(style in name for style in _OTHER_STYLES), "serif" in name and "sans" not in name, path

    yield from sorted(font_manager.findSystemFonts(), key=unsuitability)


@functools.cache
def _register(path: str) -> str:
    """Return the family of the font in `path`, under which matplotlib now finds it."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    return font_manager.get_font(path).family_name


def _drawn_by(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Return those of `letters` for which the font in `path` has an outline; bitmap emoji fonts have none."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
        known = font.get_charmap()
        found = {letter for letter in letters if ord(letter) in known}
        if found:
            font.set_size(9, 150)
        return frozenset(letter for letter in found if _has_outline(font, letter))
    except (OSError, RuntimeError, ValueError):  # damaged, or of a format that FreeType cannot draw
        return frozenset()


def _has_outline(font: Any, letter: str) -> bool:
    left, bottom, right, top = font.load_char(ord(letter)).bbox
    return right > left and top > bottom
