"""What reaches the terminal and `train.log`: results on stdout, notes and errors on stderr, nothing raw."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from MLPipeline.console.Console import fail, log_to, note, open_console, printable, progress, say
from MLPipeline.Errors import ResourceError

NASTY = "a\n\x1b[31mb\udcff"
ESCAPED = r"a\n\x1b[31mb\udcff"


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    say("result")
    say()
    note("remark")
    fail("reason")
    logging.getLogger("MLPipeline.CreateDataset").warning("%d odd files", 3)
    logging.getLogger("MLPipeline.CreateDataset").info("not for the terminal")
    out, err = capsys.readouterr()
    assert out == "result\n\n"
    assert err == "note: remark\nerror: reason\nnote: 3 odd files\n"


@pytest.mark.parametrize("speak", [say, note, fail])
def test_file_names_cannot_command_the_terminal(speak: object, capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    speak(NASTY)  # type: ignore[operator]
    out, err = capsys.readouterr()
    assert (out + err).removeprefix("note: ").removeprefix("error: ") == ESCAPED + "\n"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"K\xe4se \u732b"), ("latin-1", r"Käse \u732b"), ("utf-8", "Käse 猫"), (None, "Käse 猫")],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str | None, shown: str) -> None:
    assert printable("Käse 猫", encoding) == shown


def test_an_ascii_terminal_gets_escapes_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    say("猫")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"\\u732b\n"  # type: ignore[attr-defined]


def test_all_that_is_said_is_logged_with_its_time(tmp_path: Path) -> None:
    open_console()
    log_to(tmp_path / "train.log")
    say("result")
    note("remark")
    fail("reason")
    say(NASTY)
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["result", "remark", "error: reason", ESCAPED]
    assert all(line[:2] == "20" and line[10] == " " for line in lines)  # 2025-01-31 12:00:00,000


def test_a_second_command_in_one_process_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    log_to(tmp_path / "first.log")
    open_console()
    note("once")
    assert capsys.readouterr().err == "note: once\n"
    assert (tmp_path / "first.log").read_text() == ""


def test_a_log_that_cannot_be_written_is_the_environments_fault(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="missing.train.log: cannot be written"):
        log_to(tmp_path / "missing" / "train.log")


def test_no_bar_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], "epoch 1", 3)) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(iter([1, 2]), "epoch 1", 2)) == [1, 2]
    assert "epoch 1:" in sys.stderr.getvalue()  # type: ignore[attr-defined]
