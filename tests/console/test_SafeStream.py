"""Standard streams that are closed, full, absent or gone: nothing is raised, and what was lost is known."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from MLPipeline.console.Console import (
    fail,
    is_unread,
    log_to,
    note,
    open_console,
    progress,
    require_complete_stdout,
    say,
)
from MLPipeline.console.SafeStream import SafeStream, safe
from MLPipeline.Errors import ResourceError
from tests.support.paths import ROOT


class Failing(io.StringIO):
    """A stream whose every `write` or `flush` raises one error."""

    def __init__(self, number: int, at_flush: bool = False) -> None:
        super().__init__()
        self.number, self.at_flush, self.num_calls = number, at_flush, 0

    def write(self, text: str) -> int:
        self.num_calls += 1
        return super().write(text) if self.at_flush else self._fail()

    def flush(self) -> None:
        if self.at_flush:
            self._fail()

    def isatty(self) -> bool:
        return True

    def _fail(self) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("at_flush", [False, True])
def test_all_that_is_printed_can_be_lost(
    number: int, at_flush: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(number, at_flush))
    monkeypatch.setattr(sys, "stderr", Failing(number, at_flush))
    open_console()
    log_to(tmp_path / "train.log")
    for speak in (say, note, fail):
        speak("text")
    assert list(progress(iter([1, 2]), "epoch 1", 2)) == [1, 2]  # a bar on a terminal that is gone
    assert len((tmp_path / "train.log").read_text().splitlines()) == 3
    assert isinstance(sys.stdout, SafeStream) and sys.stdout.error is not None and sys.stdout.error.errno == number
    assert is_unread() == (number == errno.EPIPE)


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "Free space"), (errno.EIO, "Send the output to a file")])
def test_results_for_programs_must_be_complete(number: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(number))
    open_console()
    require_complete_stdout()
    say("{}")
    with pytest.raises(ResourceError, match=rf"standard output: not complete \({os.strerror(number)}\). {hint}"):
        require_complete_stdout()


@pytest.mark.parametrize("stream", ["closed pipe", "none", "closed"])
def test_a_reader_that_does_not_want_more_is_no_error(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    streams = {"closed pipe": Failing(errno.EPIPE), "none": None, "closed": closed}
    monkeypatch.setattr(sys, "stdout", streams[stream])
    monkeypatch.setattr(sys, "stderr", streams[stream])
    open_console()
    for _ in range(3):
        say("text")
        note("text")
    assert list(progress(iter([1, 2]), "epoch 1", 2)) == [1, 2]
    require_complete_stdout()
    assert sys.stdout.isatty() == (stream == "closed pipe")


def test_a_closed_pipe_is_not_tried_again_and_a_full_disk_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, num_calls in ((errno.EPIPE, 1), (errno.ENOSPC, 3)):
        stream = SafeStream(failing := Failing(number))
        for _ in range(3):
            stream.write("text")
        assert failing.num_calls == num_calls


def test_a_log_on_a_full_disk_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for the full disk, in a process of its own."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from MLPipeline.console.Console import close_console, log_to, open_console, say\n"
        "open_console(); log_to(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "for number in range(100): say(f'line {number}')\n"
        "open_console(); close_console()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "train.log")]
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "train.log").stat().st_size == (tmp_path / "out").stat().st_size == 100


def test_after_an_error_the_stream_can_be_closed_without_another() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for settles in (False, True):
        file = open(os.dup(writer), "w", encoding="utf-8")
        stream = SafeStream(file)
        stream.write("text")
        stream.flush()
        if settles:
            stream.settle()
            file.close()
        else:
            with pytest.raises(BrokenPipeError):
                file.close()
    os.close(writer)


def test_what_the_encoding_lacks_is_escaped_not_lost() -> None:
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("Käse 猫")
    stream.flush()
    assert raw.getvalue() == b"K\\xe4se \\u732b" and stream.error is None


def test_a_stream_is_made_safe_once(capsys: pytest.CaptureFixture[str]) -> None:
    once = safe(sys.stdout)
    assert safe(once) is once and once.encoding == sys.stdout.encoding
    once.write("text")
    assert capsys.readouterr().out == "text"


def test_missing_descriptors_are_opened_so_that_no_file_gets_their_number(tmp_path: Path) -> None:
    """Otherwise `model.pt` may become descriptor 1, and a library's output is written into it."""
    code = (
        "import os, sys, subprocess; from MLPipeline.console.Console import close_console, open_console, say\n"
        "open_console()\n"
        "file = open(sys.argv[1], 'wb')\n"
        "os.write(1, b'output of a library'); os.write(2, b'output of a library')\n"
        "say('text')\n"
        'child = \'import os; os.write(1, b"child"); os.write(2, b"child")\'\n'
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
        "file.write(b'%d' % file.fileno()); close_console()"
    )
    script = f'exec {sys.executable} -c "$0" "$1" 0<&- 1>&- 2>&-'
    done = subprocess.run(["sh", "-c", script, code, str(tmp_path / "file")], cwd=ROOT)
    assert done.returncode == 0 and int((tmp_path / "file").read_bytes()) > 2
