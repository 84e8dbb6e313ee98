"""Rows 37, 38, 49 and 52 of the fault matrix through the command line: runs that go on, and that may not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from MLPipeline.files.RunFolder import Run, lock_run
from tests.support.crash import result
from tests.support.harness import content, refuse, succeed
from tests.support.stop_cases import Command, resuming

MakeImages = Callable[..., Path]


def test_a_finished_run_is_already_complete(command: Command) -> None:
    """Row 38."""
    before = content(command.output)
    for wanted in ("1", "run", "001-run", command.output / "001-run"):
        outcome = succeed(["--resume", wanted, "--output", command.output])
        assert outcome.out.startswith(f"{command.output / '001-run'} is already complete: python Engine.py predict ")
        assert outcome.err == ""
    assert content(command.output) == before


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(command: Command, stopped: Path) -> None:
    outcome = succeed(resuming(stopped))
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith("    ")][1:] == ["1", "2", "3"]
    assert result(stopped.parent) == command.whole
    assert "is already complete" in succeed(resuming(stopped)).out
    assert "1 epoch" not in outcome.out and pd.read_csv(stopped / "history.csv")["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: (data / "cat" / "000.png").unlink(), "images"),
        (lambda data: shutil.copy(data / "dog" / "000.png", data / "dog" / "new.png"), "images"),
        (lambda data: shutil.copy(data / "dog" / "000.png", data / "cat" / "000.png"), "images"),
        (lambda data: shutil.move(data / "dog" / "000.png", data / "cat" / "dog.png"), "images"),
        (lambda data: (data / "cat").rename(data / "tiger"), "classes"),
    ],
    ids=["fewer", "more", "another picture", "another class", "class renamed"],
)
def test_changed_images_are_refused(
    stopped: Path, command: Command, change: Callable[[Path], object], words: str, make_images: MakeImages
) -> None:
    """Row 37. What a run was trained on cannot change half-way; a new run is to be started."""
    before = content(stopped)
    kept = stopped.parent / "kept"
    shutil.copytree(command.data, kept)
    try:
        change(command.data)
        refuse(resuming(stopped), 2, f"--resume {stopped}: not the same", words, "Put them back, or start a new run")
    finally:
        shutil.rmtree(command.data)
        shutil.move(kept, command.data)
    after = content(stopped)
    assert {name for name in after if after[name] != before.get(name)} == {bytes(stopped / "train.log")}


@pytest.mark.parametrize(
    ("flag", "value", "was"),
    [
        ("--epochs", "9", "3"),
        ("--lr", "0.5", "0.05"),
        ("--optimizer", "adam", "sgd"),
        ("--model", "resnet18", "cnn"),
        ("--seed", "1", "0"),
        ("--data", "elsewhere", "Data"),
        ("--ema", "0.5", "0.0"),
        ("--name", "other", "run"),
        ("--unfreeze-after", "1", "none"),
    ],
)
def test_flags_that_contradict_are_refused(stopped: Path, flag: str, value: str, was: str) -> None:
    before = content(stopped)
    refuse([*resuming(stopped), flag, value], 2, f"{flag} {value}: the run was started with", was, "Leave the flag out")
    assert content(stopped) == before


@pytest.mark.slow
def test_flags_that_agree_or_change_no_result_are_taken(stopped: Path, command: Command) -> None:
    succeed([*resuming(stopped), "--epochs", "3", "-j", "2", "--cache-limit", "1", "--data", command.data])
    assert result(stopped.parent) == command.whole


def test_what_is_not_there_cannot_go_on(stopped: Path) -> None:
    output = stopped.parent
    refuse(["--resume", "7", "--output", output], 2, "--resume 7: no such run")
    (stopped / "config.json").unlink()
    refuse(["--resume", "1", "--output", output], 2, "--resume 1: was stopped before it began", "Start it again")
    refuse(["--resume", stopped, "--output", output], 2, f"--resume {stopped}: there is no config.json in it")


@pytest.mark.slow
def test_two_runs_in_one_folder_are_kept_apart(stopped: Path) -> None:
    """Row 49: the other is another process, which holds the lock until it is killed."""
    holder = f"""if True:
        import sys, time
        from pathlib import Path
        from MLPipeline.files.RunFolder import Run, lock_run
        with lock_run(Run(Path({str(stopped)!r}), 1, "run")):
            print("held", flush=True)
            time.sleep(120)
    """
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    before = content(stopped)
    refuse(resuming(stopped), 3, f"{stopped}: in use by process {process.pid}", "Wait until it is done, or end it")
    assert content(stopped) == before
    process.kill()
    process.wait()
    with lock_run(Run(stopped, 1, "run")):
        pass
    succeed(resuming(stopped))


@pytest.mark.slow
def test_a_clock_set_back_changes_nothing(stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 52."""

    def backwards() -> Iterator[float]:
        now = 2e9
        while True:
            yield now
            now -= 3600.0

    clock = backwards()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))
        succeed(resuming(stopped))
    assert result(stopped.parent) == command.whole
    assert (pd.read_csv(stopped / "history.csv")["seconds"] > 0).all()
    metrics = pd.read_json(stopped / "metrics.json", typ="series")
    assert 0 < metrics["timing"]["total_s"] < 600
