"""When two names mean the same class: equal in NFC; names that only look equal are refused or noted."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable

from MLPipeline.Errors import DataError

# Drawn as nothing, or as a blank, though Unicode does not count them as format characters or white space: combining
# grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation selectors, the Braille blank.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Letters of other scripts that are drawn like Latin ones (a part of Unicode Technical Standard 39, confusables.txt).
_LOOK_ALIKES = {
    "CYRILLIC": ("АВЕЅІЈКМНОРСТУХЬаеѕіјкорсухһԁԛԝӏ", "ABESIJKMHOPCTYXbaesijkopcyxhdqwl"),
    "GREEK": ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυ", "ABEZHIKMNOPTYXaiKvopu"),
    "ARMENIAN": ("ՕՍօսհոց", "OUouhng"),
}
_AS_LATIN = {
    ord(other): latin
    for others, latins in _LOOK_ALIKES.values()
    for other, latin in zip(others, latins, strict=True)
    if other != latin
}

logger = logging.getLogger(__name__)


def class_name(text: str) -> str:
    """Return the name by which a class is known everywhere: in NFC, the composed form of accented letters."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def name_key(name: str) -> str:
    """Return what two names share that people would read as one.

    Compatibility forms such as full-width letters become plain ones (NFKC), invisible characters go, blanks become
    single spaces or, at the ends, nothing, and case is folded.
    """
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name))
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", " ".join(text.split()).casefold())


def check_names(where: str, names: Iterable[str]) -> None:
    """Make sure that no two of `names` are one name to the eye; note those with letters of several scripts.

    Raises:
        DataError: two differ only in case, blanks, invisible or full-width characters.
    """
    keys: dict[str, str] = {}
    for name in names:
        twin = keys.setdefault(name_key(name), name)
        if twin != name:
            raise twins(where, twin, name)
    _note_look_alikes(where, list(keys.values()))


def twins(where: str, one: str, other: str) -> DataError:
    """Return the error for two names that differ only in spelling, written so that the difference shows."""
    show = repr if one.casefold() == other.casefold() else ascii  # capitals show as they are
    return DataError(
        f"{where}: the classes {show(one)} and {show(other)} differ only in spelling "
        "(case, blanks, invisible or full-width characters, composed or decomposed accents)",
        "Rename or merge one",
    )


def _note_look_alikes(where: str, names: list[str]) -> None:
    skeletons: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (not name.isascii(), name)):
        twin = skeletons.setdefault(name_key(name.translate(_AS_LATIN)), name)
        if twin != name:
            what = "%s: the classes %s and %s look alike, with letters of different scripts; they count as two classes"
            logger.warning(what, where, ascii(twin), ascii(name))
        elif script := _mixed_in(name):
            what = "%s: the class %s (%s) has Latin and %s letters that look alike in one word"
            logger.warning(what, where, name, ascii(name), script)


def _mixed_in(name: str) -> str:
    """Return the script whose look-alikes stand beside Latin letters in one word of `name`; empty if none do."""
    for word in re.findall(r"[^\W\d_]+", name):
        scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in word if ord(letter) in _AS_LATIN}
        if scripts and any(unicodedata.name(letter, "").startswith("LATIN") for letter in word):
            return min(scripts).title()
    return ""
