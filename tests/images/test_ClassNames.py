"""Names that mean one class, that look as if they did, and that only look alike."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError
from MLPipeline.images.ClassNames import check_names, class_name, name_key
from MLPipeline.images.ScanFolders import scan_folders

CAFE = "Caf\u00e9"
TWINS = {
    "trailing blank": ("round", "round "),
    "tab": ("a b", "a\tb"),
    "no-break space": ("round", "round\u00a0"),
    "ideographic space": ("\u732b", "\u732b\u3000"),
    "doubled blank": ("a b", "a  b"),
    "zero-width space": ("round", "ro\u200bund"),
    "zero-width joiner": ("round", "round\u200d"),
    "byte order mark": ("round", "\ufeffround"),
    "soft hyphen": ("round", "ro\u00adund"),
    "direction mark": ("round", "round\u200e"),
    "variation selector": ("\u2764", "\u2764\ufe0f"),
    "Hangul filler": ("round", "round\u3164"),
    "full width": ("round", "\uff52\uff4f\uff55\uff4e\uff44"),
    "ligature": ("fish", "\ufb01sh"),
    "case": ("Cat", "cat"),
    "sharp s": ("STRASSE", "stra\u00dfe"),
}


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_twins_are_refused_and_the_difference_shows(one: str, other: str) -> None:
    with pytest.raises(DataError) as caught:
        check_names("Data", ["dog", one, other])
    shown = str(caught.value).split("the classes ")[1].split(" differ")[0].split(" and ")
    assert shown[0] != shown[1] and str(caught.value).endswith("Rename or merge one")
    if not (one.isascii() and other.isascii()) and one.casefold() != other.casefold():
        assert shown == [ascii(one), ascii(other)]


@pytest.mark.parametrize("names", [("ab", "a b"), ("7", "007"), ("1", "1.0"), ("a-b", "a_b"), ("e", "\u00e9")])
def test_names_that_differ_to_the_eye_are_two_classes(names: tuple[str, str]) -> None:
    check_names("Data", names)
    assert name_key(names[0]) != name_key(names[1])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["round", "r\u043eund"], "'round' and 'r\\u043eund' look alike"),
        (["BAC", "\u0412\u0410\u0421"], "'BAC' and '\\u0412\\u0410\\u0421' look alike"),
        (["A1", "\u03911"], "'A1' and '\\u03911' look alike"),
        (["dog", "r\u043eund"], "('r\\u043eund') has Latin and Cyrillic letters"),
    ],
)
def test_look_alikes_of_other_scripts_are_noted(names: list[str], words: str, caplog: pytest.LogCaptureFixture) -> None:
    check_names("Data", names)
    assert words in caplog.text


def test_plain_names_of_any_script_are_not_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check_names(
        "Data", ["\u0441\u043e\u0431\u0430\u043a\u0430", "dog", "\u732b", "\u03bcm filter", "thé vert", "A", "B"]
    )
    assert not caplog.records


def test_composed_and_decomposed_accents_are_one_class_across_splits(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD"), ("val", "NFD")):
        for name in (CAFE, "th\u00e9"):
            folder = tmp_path / split / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            (folder / "1.jpg").touch()
    index = scan_folders(tmp_path)
    assert index.classes == (CAFE, "th\u00e9") and index.labels.tolist() == [0, 1] * 3
    assert all(index.path(position).exists() for position in range(6))
    decomposed = tuple(unicodedata.normalize("NFD", name) for name in index.classes)
    again = scan_folders(tmp_path, classes=decomposed)  # a model of before, whose names are as its folders were
    assert again.classes == decomposed and again.labels.tolist() == index.labels.tolist()
    assert class_name(decomposed[0]) == CAFE
