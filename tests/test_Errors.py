"""One line per error, whatever is in it, and one exit code per kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import (
    DataError,
    DivergedError,
    GateMissedError,
    PipelineError,
    ResourceError,
    UsageError,
    did_you_mean,
    one_line,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (DataError, 2), (ResourceError, 3), (DivergedError, 4), (GateMissedError, 5)],
)
def test_exit_codes(kind: type[PipelineError], code: int) -> None:
    assert kind("what", "hint").exit_code == code


def test_an_error_says_what_is_wrong_and_what_to_do() -> None:
    error = DataError("cat.jpg: is empty.", "Remove it")
    assert str(error) == "cat.jpg: is empty. Remove it"
    assert (error.what, error.hint) == ("cat.jpg: is empty", "Remove it")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # C1: the eight-bit form of ESC [
        ("\x7f\x00", r"\x7f\x00"),
        ("\u2028line\u2029", r"\u2028line\u2029"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),  # would be shown as photoexe.jpg
        ("Käse 猫 👩‍🔬 C:\\new", "Käse 猫 👩‍🔬 C:\\new"),  # nothing to escape; a joiner inside the emoji
    ],
)
def test_control_characters_never_reach_the_terminal(raw: str, shown: str) -> None:
    assert one_line(raw) == shown
    assert str(DataError(f"{raw}: bad", raw)) == f"{shown}: bad. {shown}"


@given(st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in line)
    assert one_line(line) == line


def test_the_nearest_names_come_first_then_all() -> None:
    assert did_you_mean("resnet5", ["resnet50", "cnn"]) == "Did you mean 'resnet50'? Choose from: cnn, resnet50"
    assert did_you_mean("ADAM", ["adam", "sgd"]) == "Did you mean 'adam'? Choose from: adam, sgd"
    assert did_you_mean("xyz", ["adam", "sgd"]) == "Choose from: adam, sgd"


def test_long_lists_are_cut() -> None:
    text = did_you_mean("?", [f"class{number:02}" for number in range(30)])
    assert text.endswith("class19, ... (30 in all)")
