"""New names: cut between characters, suffix kept, nothing invisible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.files.FileNames import longest_name, numbered_name, shorten, visible_name


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("cat.jpg", 1, "cat.jpg"),
        ("cat.jpg", 2, "cat-2.jpg"),
        ("x" * 251 + ".jpg", 1, "x" * 251 + ".jpg"),
        ("x" * 251 + ".jpg", 2, "x" * 249 + "-2.jpg"),
        ("x" * 251 + ".jpg", 1234, "x" * 246 + "-1234.jpg"),
        ("猫" * 84 + ".j", 2, "猫" * 83 + "-2.j"),  # 254 bytes; 83 characters of 3 bytes are the most that fit
        (".hidden", 2, ".hidden-2"),
        ("a." + "x" * 253, 2, "a." + "x" * 251 + "-2"),  # no suffix: it would leave no room for the name
        ("no suffix", 3, "no suffix-3"),
    ],
)
def test_a_number_stands_before_the_suffix_and_the_name_fits(name: str, number: int, expected: str) -> None:
    assert numbered_name(name, number) == expected
    assert len(os.fsencode(expected)) <= 255


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1), st.integers(8, 40))
def test_what_is_cut_is_whole_characters_of_the_beginning(text: str, max_bytes: int) -> None:
    short = shorten(text, max_bytes)
    assert text.startswith(short) and len(short.encode()) <= max_bytes
    assert short == text or len((short + text[len(short)]).encode()) > max_bytes


def test_bytes_that_are_not_utf8_can_be_cut_too() -> None:
    assert os.fsencode(shorten(os.fsdecode(b"\xff" * 9), 4)) == b"\xff" * 4
    assert os.fsencode(shorten(os.fsdecode(b"\x80" * 9), 4)) == b"\x80" * 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo\u202egpj.exe", "photo_gpj.exe"),
        ("a\u2066b\u2069\u200b\ufeff.png", "a_b___.png"),
        ("a\nb\x1b[2J.png", "a_b_[2J.png"),
        ("Käse 猫 👩‍🔬.png", "Käse 猫 👩‍🔬.png"),
    ],
)
def test_what_is_invisible_becomes_an_underscore(name: str, expected: str) -> None:
    assert visible_name(name) == expected


def test_the_file_system_says_how_long_a_name_may_be(tmp_path: Path) -> None:
    assert longest_name(tmp_path / "not" / "yet") == os.pathconf(tmp_path, "PC_NAME_MAX")
