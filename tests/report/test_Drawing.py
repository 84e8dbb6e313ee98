"""Drawing: the same pictures from a process of its own, which neither outlives nor fails the one that ordered them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.report.Drawing import Drawing
from MLPipeline.report.Plots import plot_history
from MLPipeline.report.Thumbnails import take_photos
from tests.conftest import MakeImages
from tests.support.paths import ROOT

HISTORY = {
    "epoch": [1, 2],
    "train_loss": [0.5, 0.5],
    "train_accuracy": [0.7, 0.7],
    "val_loss": [0.6, 0.4],
    "val_accuracy": [0.8, 0.8],
}


@pytest.fixture
def drawing() -> Iterator[Drawing]:
    started = Drawing()
    started.begin()
    yield started
    started.end()


@pytest.fixture(scope="module")
def shared() -> Iterator[Drawing]:
    """A process for the tests that leave it as it was: starting one takes seconds."""
    started = Drawing()
    started.begin()
    yield started
    started.end()


def pid_of(drawing: Drawing) -> int:
    assert drawing._process is not None
    return drawing._process.pid


def test_another_process_draws_the_same(shared: Drawing, tmp_path: Path) -> None:
    shared.draw("Plots.plot_history", HISTORY, tmp_path / "there.png")
    shared.finish()
    plot_history(HISTORY, tmp_path / "here.png")
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_it_does_so_without_torch_and_pandas_and_outlives_a_bug_of_ours(shared: Drawing, tmp_path: Path) -> None:
    pid = pid_of(shared)
    shared.draw("Drawing.print", "there is no such function in that file")
    shared.draw("Plots.plot_history", HISTORY, tmp_path / "there.png")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*'MLPipeline.report.Drawing' has no attribute 'print'"):
        shared.finish()
    assert (tmp_path / "there.png").exists() and pid_of(shared) == pid
    if sys.platform == "linux":
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" not in loaded and "pandas" not in loaded and "ft2font" in loaded


def test_a_picture_that_cannot_be_saved_is_the_users_error_as_if_drawn_here(shared: Drawing, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError) as here:
        plot_history(HISTORY, tmp_path / "file" / "history.png")
    shared.draw("Plots.plot_history", HISTORY, tmp_path / "file" / "history.png")
    with pytest.raises(ResourceError) as there:
        shared.finish()
    assert str(there.value) == str(here.value) and there.value.hint == here.value.hint
    shared.draw("Plots.plot_history", HISTORY, tmp_path / "history.png")
    shared.finish()
    assert (tmp_path / "history.png").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_process_leaves_undone_is_drawn_here(drawing: Drawing, tmp_path: Path, when: str) -> None:
    os.kill(pid_of(drawing), signal.SIGSTOP if when == "after" else signal.SIGKILL)
    for number in range(3):
        drawing.draw("Plots.plot_history", HISTORY, tmp_path / f"{number}.png")
    if when == "after":
        os.kill(pid_of(drawing), signal.SIGKILL)
    drawing.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]
    drawing.begin()
    drawing.draw("Plots.plot_history", HISTORY, tmp_path / "3.png")
    drawing.finish()
    assert (tmp_path / "3.png").exists() and pid_of(drawing)


def test_what_is_asked_for_comes_back_and_holds_nothing_up(
    shared: Drawing, tmp_path: Path, make_images: MakeImages
) -> None:
    paths = sorted(make_images(tmp_path / "Data", {"cat": 40}, 400).rglob("*.png"))
    asked = shared.ask("Thumbnails.take_photos", paths)
    shared.draw("Plots.plot_history", HISTORY, tmp_path / "history.png")
    for _ in range(100):  # nobody has listened yet to an answer that is longer than a pipe holds
        if (tmp_path / "history.png").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("it waits for somebody to listen")
    photos = take_photos(paths)
    assert asked.result() == photos and len(pickle.dumps(photos)) > 2**17
    shared.finish()


def test_drawing_and_the_end_do_not_wait_for_what_is_asked(
    drawing: Drawing, tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = make_images(tmp_path / "Data", {"cat": 1}, 400).rglob("*.png")
    asked = drawing.ask("Thumbnails.take_photos", [path] * 200_000)  # takes minutes
    drawing.draw("Plots.plot_history", HISTORY, tmp_path / "history.png")
    drawing.finish()
    assert (tmp_path / "history.png").exists() and asked.answer is None
    monkeypatch.setattr("MLPipeline.report.Drawing._TIMEOUT_S", 600.0)
    drawing.abandon()
    assert drawing._process is None


def test_what_is_asked_of_a_process_that_is_killed_is_done_here(
    drawing: Drawing, tmp_path: Path, make_images: MakeImages
) -> None:
    paths = sorted(make_images(tmp_path, {"cat": 2}).rglob("*.png"))
    os.kill(pid_of(drawing), signal.SIGSTOP)
    asked, wrong = drawing.ask("Thumbnails.take_photos", paths), drawing.ask("Thumbnails.take_photos", [0])
    os.kill(pid_of(drawing), signal.SIGKILL)
    assert asked.result() == take_photos(paths) == Drawing().ask("Thumbnails.take_photos", paths).result()
    with pytest.raises(AttributeError):
        wrong.result()


def test_what_is_asked_waits_until_matplotlib_is_imported() -> None:
    """A second thread that imports matplotlib at the same time may find it half imported."""
    slow = (
        "import importlib, time; from MLPipeline.report import Drawing; done = []\n"
        "def load(name):\n"
        "    if name.endswith('.ScorePlots'): time.sleep(0.5); done.append(name)\n"
        "    assert done, 'too early'\n"
        "    return importlib.import_module(name)\n"
        "Drawing.import_module = load; Drawing.serve()"
    )
    message = pickle.dumps((7, True, ("Charts.round_values", (0.0, 1.0, 2))))
    with subprocess.Popen(
        [sys.executable, "-c", slow], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as served:
        assert served.stdin and served.stdout
        served.stdin.write(message)
        served.stdin.flush()
        number, (values, error) = pickle.load(served.stdout)
    assert number == 7 and error is None and values.tolist() == [0.0, 0.5, 1.0]


def test_without_a_process_it_is_drawn_at_once(tmp_path: Path) -> None:
    Drawing().draw("Plots.plot_history", HISTORY, tmp_path / "history.png")
    assert (tmp_path / "history.png").exists()


def test_what_was_begun_is_finished_when_all_ends(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("MLPipeline.report.Drawing._TIMEOUT_S", 60.0)  # a machine shared by tests may stall
    for number in range(4):
        drawing.draw("Plots.plot_history", HISTORY, tmp_path / f"{number}.png")
    drawing.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.png" for number in range(4)]


def test_after_a_failure_nothing_more_is_written(drawing: Drawing, tmp_path: Path) -> None:
    for number in range(4):
        drawing.draw("Plots.plot_history", HISTORY, tmp_path / f"{number}.png")
    drawing.abandon()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert not any(name.startswith(".") for name in before)
    time.sleep(0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_new_run_does_not_wait_for_the_pictures_of_a_stopped_one(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("MLPipeline.report.Drawing._TIMEOUT_S", 0.1)
    before = pid_of(drawing)
    os.kill(before, signal.SIGSTOP)
    drawing.draw("Plots.plot_history", HISTORY, tmp_path / "old.png")
    drawing.abandon()
    drawing.begin()
    drawing.draw("Plots.plot_history", HISTORY, tmp_path / "new.png")
    drawing.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"] and pid_of(drawing) != before


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL, SIGINT to a group")
@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_the_process_that_began_it(signal_sent: signal.Signals) -> None:
    code = "import signal, time; from MLPipeline.report.Drawing import drawing"
    code += "; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs do without
    code += "; drawing.begin(); print(drawing._process.pid, flush=True)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.killpg(parent.pid, signal_sent)  # as the terminal does: to all of the group
    assert "MLPipeline/report" not in parent.communicate()[1]  # the child tells no tale
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    pytest.fail("it is still there")
