"""Files that anyone may have named: regular ones are read up to a limit, all others are refused without waiting."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from MLPipeline.files.Json import dump_json, parse_json, read_json
from MLPipeline.files.PlainFile import UnusableFileError, kind_of, open_regular, read_bytes
from MLPipeline.files.PlainValues import are_texts, is_number, is_usable_text, is_whole, shown


def test_a_regular_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "a", 5) == read_bytes(tmp_path / "link", 5) == b"12345"
    with pytest.raises(UnusableFileError, match="larger than 4e-06 MB"):
        read_bytes(tmp_path / "a", 4)
    with pytest.raises(UnusableFileError, match="is a symbolic link, not a regular file"):
        open_regular(tmp_path / "link", follows_links=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_what_could_block_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        terminal, side = os.openpty()
        try:
            places = {"a FIFO": "fifo", "a socket": "s", "a device": os.ttyname(side), "a directory": "."}
            for kind, place in places.items():
                with pytest.raises(UnusableFileError, match=f"is {kind}, not a regular file"):
                    open_regular(tmp_path / place)
        finally:
            os.close(terminal)
            os.close(side)


def test_a_file_that_is_replaced_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the name alone would not do."""
    (tmp_path / "a").touch()
    os.mkfifo(tmp_path / "fifo")
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: real(tmp_path / "fifo", flags))
    with pytest.raises(UnusableFileError, match="is a FIFO"):
        open_regular(tmp_path / "a")


def test_names_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "none": "No such file",
        "loop": "symbolic links",
        "a\0b": "null",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(UnusableFileError, match=reason):
            open_regular(tmp_path / name)
    assert kind_of(0o020666) == "a device"


def test_json_that_is_written_has_no_nan() -> None:
    content = {"a": float("nan"), "b": [1.5, float("inf"), {"c": (float("-inf"), None)}], "d": "NaN"}
    assert parse_json(dump_json(content).encode()) == {"a": None, "b": [1.5, None, {"c": [None, None]}], "d": "NaN"}
    assert dump_json({"a": 1}, indent=2) == '{\n  "a": 1\n}'
    with pytest.raises(TypeError):
        dump_json({"a": object()})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": NaN}', "NaN is not a number in JSON"),
        (b"-Infinity", "-Infinity is not a number"),
        (b"1e400", "1e400 is too large"),
        (b'{"a": 1, "a": 1}', "has the name 'a' twice"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b"9" * 5000, "Exceeds the limit"),
        (b'"\xff"', "can't decode"),
        (b"\xff\xfe{\0}\0", "can't decode"),
        (b"{}\0", "Extra data"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_is_not_json(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json")


def test_ranges_of_values() -> None:
    assert [is_number(value, 0, 1) for value in (0, 0.5, 1)] == [True] * 3
    hostile = (True, float("nan"), float("inf"), -1e-300, 10**400, -(10**400), "0", None, [0])
    assert not any(is_number(value, 0, 1) for value in hostile)
    assert is_whole(3, 0, 3) and not any(is_whole(value, 0, 3) for value in (3.0, True, 4, 10**400, "3"))
    assert are_texts({"a": "b"}) and not any(map(are_texts, ({"a": 1}, {1: "a"}, ["a"], {"a": "x" * 5000})))
    assert is_usable_text("K\u00e4se \udcff") and not any(map(is_usable_text, ("a\0", "\ud800", "x" * 5000)))
    assert [shown(value) for value in (0.1, None, [1], 10**5000)] == ["0.1", "None", "of type list", "a huge number"]
    assert len(shown("x" * 1000)) == 60
