"""Runs a command line in this process, and checks that it has changed neither images nor earlier runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import Engine
from MLPipeline.console.Signals import stop_signals
from MLPipeline.report import Plots, ScorePlots
from MLPipeline.report.Drawing import drawing

SMALL = ["--model", "cnn", "--image-size", "16", "--epochs", "2", "--device", "cpu", "-j", "1"]


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of a command line."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        return [line.removeprefix("note: ") for line in self.err.splitlines() if line.startswith("note: ")]


def empty_figures() -> list[tuple[object, str, Any]]:
    """Return replacements (owner, name, value) after which a run writes empty pictures, drawn in its own process.

    Building and drawing figures takes longer than a small training. The tests of report/ draw them, and those that
    give `paints`.
    """
    figures = dict.fromkeys(ScorePlots.FIGURES, _empty_figure)
    names = ("history_figure", "samples_figure", "mistakes_figure")
    return [
        (drawing, "begin", lambda: None),
        (drawing, "_process", None),
        (FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer),
        (ScorePlots, "FIGURES", figures),
        *((Plots, name, _empty_figure) for name in names),
    ]


@contextlib.contextmanager
def blank_figures() -> Iterator[None]:
    """Apply `empty_figures` inside the `with` block."""
    with contextlib.ExitStack() as changed:
        for owner, name, value in empty_figures():
            changed.enter_context(patch.object(owner, name, value))
        yield


def _empty_figure(*_: object) -> Figure:
    return Figure((0.1, 0.1))


def run(argv: list[str | Path], paints: bool = False) -> Outcome:
    """Return the outcome of `python Engine.py <argv>`; fails if it changes images or an earlier run.

    A resumed run may change; give `--resume` its path. The pictures are empty unless `paints`.
    """
    words = [str(word) for word in argv]
    data, output = Path(_value(words, "--data", "Data")), Path(_value(words, "--output", "output"))
    resumed = _value(words, "--resume", "none")
    runs = [path for path in output.glob("[0-9]*-*") if path.is_dir()] if output.is_dir() else []
    runs = [path for path in runs if str(path) != resumed]
    before = [content(folder) for folder in (data, *runs)]
    out, err = io.StringIO(), io.StringIO()
    figures = contextlib.nullcontext() if paints else blank_figures()
    with figures, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = Engine.main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        finally:
            stop_signals.uninstall()
    for folder, was in zip((data, *runs), before, strict=True):
        assert content(folder) == was, f"{folder} was changed by {words}"
    return Outcome(code, out.getvalue(), err.getvalue())


def copy_run(run: Path, folder: Path) -> Path:
    """Return a copy of a run's folder in `folder`, without the checkpoint that was kept before the last."""
    shutil.copytree(run, folder / run.name)
    (folder / run.name / "model.pt.prev").unlink(missing_ok=True)
    return folder / run.name


def succeed(argv: list[str | Path], paints: bool = False) -> Outcome:
    """Return the outcome of the command; fails unless it exits with 0 and prints no traceback."""
    outcome = run(argv, paints)
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    return outcome


def refuse(argv: list[str | Path], code: int, *words: str) -> Outcome:
    """Return the outcome; fails unless the command exits with `code` and its last line is an error with all `words`."""
    outcome = run(argv)
    last = (outcome.err.splitlines() or [""])[-1]
    assert outcome.code == code, outcome.err or outcome.out
    assert re.fullmatch(r"error: .+[^.]\. \S.*", last), last
    assert "Traceback" not in outcome.err
    missing = [word for word in words if word not in last]
    assert not missing, f"{missing} not in {last!r}"
    return outcome


def content(folder: Path) -> dict[bytes, str]:
    """Return hash and mode of each file in `folder` by path (only the mode if not a regular file); {} if missing."""
    found: dict[bytes, str] = {}
    for parent, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            regular = stat.S_ISREG(status.st_mode)
            found[path] = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest() if regular else ""
            found[path] += f" {status.st_mode}"
    return found


def train(data: Path, output: Path, make_images: Callable[..., Path]) -> Path:
    """Return the folder of a small run on new images of two classes, whose predictions differ in confidence."""
    make_images(data, {"cat": 10, "dog": 10})
    succeed([*SMALL, "--lr", "0.1", "-b", "4", "--data", data, "--output", output])
    return output / "001-cnn"


def _value(words: list[str], flag: str, default: str) -> str:
    return words[words.index(flag) + 1] if flag in words else default
