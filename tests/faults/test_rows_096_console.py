"""Rows 96 and 97 of the fault matrix: the console is closed, full, absent or gone, and the work goes on."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import Engine
from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Errors import ResourceError
from tests.support.harness import SMALL, blank_figures, succeed, train
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]


class Full(io.StringIO):
    """A stream whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class ClosedPipe(io.StringIO):
    """A pipe whose reader takes one line: `| head -1`."""

    def write(self, text: str) -> int:
        if "\n" in self.getvalue():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(text)


class GoneTerminal(io.StringIO):
    """A terminal that has been closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def isatty(self) -> bool:
        return True


STREAMS = {"full": Full, "pipe": ClosedPipe, "gone": GoneTerminal, "absent": lambda: None}
EVERY_STREAM = pytest.mark.parametrize("name", STREAMS)


def code_on(out: io.StringIO | None, err: io.StringIO | None, argv: list[str | Path]) -> int:
    """Return the exit code of a command line whose output goes to these streams."""
    with blank_figures(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return Engine.main(list(map(str, argv)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("console")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def data(trained: Path) -> Path:
    return trained.parents[1] / "Data"


@pytest.fixture(scope="module")
def missed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Return an `evaluate` that misses its gate: the labels of its images are the wrong ones."""
    data, swapped = trained.parents[1] / "Data", tmp_path_factory.mktemp("swapped")
    shutil.copytree(data / "cat", swapped / "dog")
    shutil.copytree(data / "dog", swapped / "cat")
    return ["evaluate", "--output", trained.parent, "-j", "1", "--data", swapped, "--min-accuracy", "1"]


def check_run(path: Path) -> None:
    """Check that a run is complete: its metrics are written last."""
    assert json.loads((path / "metrics.json").read_text())["test"]["n"] > 0
    assert load_checkpoint(path / "model.pt")[1].classes == ("cat", "dog")
    assert "saved    " in (path / "train.log").read_text()


@EVERY_STREAM
def test_096_training_ends_and_is_saved_without_a_console(name: str, data: Path, tmp_path: Path) -> None:
    """Training into a full, closed, gone or absent console goes on, is saved, and exits with 0."""
    flags = [*SMALL, "--data", data, "--output", tmp_path, "--epochs", "1"]
    assert code_on(STREAMS[name](), STREAMS[name](), flags) == 0
    check_run(tmp_path / "001-cnn")


@EVERY_STREAM
def test_096_commands_keep_their_exit_code(name: str, trained: Path, missed: list[str | Path]) -> None:
    """`evaluate --min-accuracy` exits with 5, and a wrong flag with 2, even if their output is lost."""
    assert code_on(STREAMS[name](), STREAMS[name](), missed) == 5
    assert code_on(STREAMS[name](), STREAMS[name](), [*missed, "--json"]) == 5
    assert code_on(STREAMS[name](), STREAMS[name](), missed[:-2]) == 0
    assert code_on(STREAMS[name](), STREAMS[name](), ["evaluate", "--no-such-flag"]) == 2
    assert code_on(STREAMS[name](), STREAMS[name](), ["runs", "--output", trained.parent]) == 0


@EVERY_STREAM
def test_096_a_table_is_whole_or_the_exit_code_says_so(name: str, trained: Path, data: Path, tmp_path: Path) -> None:
    """`predict --csv FILE` writes every row; `--csv -` and `--json` on a full disk exit with 3."""
    predict = ["predict", data, "--run", trained, "-j", "1"]
    assert code_on(STREAMS[name](), STREAMS[name](), [*predict, "--csv", tmp_path / "a.csv"]) == 0
    assert len(pd.read_csv(tmp_path / "a.csv")) == 20
    err = io.StringIO()
    expected = {"full": 3, "gone": 3, "pipe": 0, "absent": 0}[name]
    assert code_on(STREAMS[name](), err, [*predict, "--json"]) == expected
    assert ("error: standard output: not complete" in err.getvalue()) == (expected == 3)
    code = code_on(STREAMS[name](), None, ["evaluate", "--output", trained.parent, "-j", "1", "--json"])
    assert code == expected


def test_096_a_table_on_standard_output_that_is_cut_is_an_error(trained: Path, data: Path) -> None:
    """`predict --csv - | head -1` does not exit with 0, as the table is not whole."""

    class Cut(io.BytesIO):
        def write(self, content: object) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    err = io.StringIO()
    out = io.TextIOWrapper(Cut())
    assert code_on(out, err, ["predict", data, "--run", trained, "-j", "1", "--csv", "-"]) == 3  # type: ignore[arg-type]
    assert "error: standard output: the table is not complete (Broken pipe)" in err.getvalue()
    assert code_on(None, err, ["predict", data, "--run", trained, "-j", "1", "--csv", "-"]) == 2
    assert "error: --csv -: standard output is closed" in err.getvalue()


def test_096_closed_descriptors_reach_no_file(trained: Path, data: Path, tmp_path: Path) -> None:
    """`evaluate --csv FILE 0<&- 1>&- 2>&-` exits with 0, and FILE holds nothing that belongs on a console."""
    flags = ["--output", trained.parent, "-j", "1", "--data", data, "--csv"]
    succeed(["evaluate", *flags, tmp_path / "a.csv"])
    command = [sys.executable, "Engine.py", "evaluate", *map(str, flags), str(tmp_path / "b.csv")]
    done = subprocess.run(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command], cwd=ROOT)
    assert done.returncode == 0
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_097_training_outlives_the_reader_of_its_output(trained: Path, data: Path, tmp_path: Path) -> None:
    """`train 0<&- 2>&- | head -1` trains to the end, with the drawing process, and exits with 0."""
    command = [sys.executable, "Engine.py", *SMALL, "--data", str(data), "--output", str(tmp_path)]
    reader, writer = os.pipe()
    train_flags = ["--lr", "0.1", "-b", "4"]  # as `trained`
    closing = ["sh", "-c", 'exec "$@" 0<&- 2>&-', "sh", *command, *train_flags]
    process = subprocess.Popen(closing, cwd=ROOT, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:
        assert lines.readline().startswith("run      ")
    assert process.wait(timeout=240) == 0
    check_run(tmp_path / "001-cnn")
    tables = [(run / "predictions.csv").read_bytes() for run in (trained, tmp_path / "001-cnn")]
    assert tables[0] == tables[1] and (tmp_path / "001-cnn" / "confusion_matrix.png").is_file()


def test_097_the_gates_keep_their_code_behind_head(
    missed: list[str | Path], tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate --min-accuracy 1 | head -1` and `audit --strict | head -1` exit with 5."""
    out, err = ClosedPipe(), io.StringIO()
    assert code_on(out, err, missed) == 5
    assert out.getvalue().count("\n") == 1 and "is below --min-accuracy 1" in err.getvalue()

    def no_weights(*_: object) -> None:  # the labels, whose check takes ten seconds, are not what is tested
        raise ResourceError("no weights", "none")

    monkeypatch.setattr("MLPipeline.commands.AuditImages._network", no_weights)
    images = make_images(tmp_path / "Data", {"cat": 8, "dog": 8})
    (images / "dog" / "copy.png").write_bytes((images / "cat" / "000.png").read_bytes())  # one image, two labels
    out = ClosedPipe()
    assert code_on(out, err, ["audit", "--data", images, "--output", tmp_path / "output", "--strict"]) == 5
    assert (tmp_path / "output" / "audit" / "audit.html").is_file()


def test_097_only_predict_stops_early_and_only_if_nothing_else_is_asked_for(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict | head -1` ends quietly with 0; with `--csv` or `--sort-into` it answers for all images."""
    from MLPipeline.Predict import ImageClassifier

    computed: list[object] = []
    genuine = ImageClassifier.stream
    monkeypatch.setattr(
        ImageClassifier, "stream", lambda *args: (computed.append(answer) or answer for answer in genuine(*args))
    )
    for flags, number in ((["--json"], 2), (["--csv", tmp_path / "a.csv"], 20), (["--sort-into", tmp_path / "s"], 20)):
        computed.clear()
        err = io.StringIO()
        assert code_on(ClosedPipe(), err, ["predict", data, "--run", trained, "-j", "1", *flags]) == 0
        assert len(computed) == number and err.getvalue() == f"note: using {trained / 'model.pt'}\n"
    assert len(list((tmp_path / "s").rglob("*.png"))) == 20
