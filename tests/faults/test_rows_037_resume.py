"""Rows 37, 38 and 46 of the fault matrix: runs that are resumed, and what may not change meanwhile."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.crash import result
from tests.support.harness import content, refuse, succeed
from tests.support.stop_cases import Command, resuming

MakeImages = Callable[..., Path]


def test_038_a_finished_run_is_already_complete(command: Command) -> None:
    """`--resume` of a finished run: exit code 0, already complete, nothing is changed."""
    before = content(command.output)
    for wanted in ("1", "run", "001-run", command.output / "001-run"):
        outcome = succeed(["--resume", wanted, "--output", command.output])
        assert outcome.out.startswith(f"{command.output / '001-run'} is already complete: python Engine.py predict ")
        assert outcome.err == ""
    assert content(command.output) == before


@pytest.mark.slow
def test_046_a_stopped_run_is_resumed_to_the_same_result(command: Command, stopped: Path) -> None:
    """`--resume` of a stopped run: continues with the next epoch and gives the result of an uninterrupted run."""
    outcome = succeed(resuming(stopped))
    assert re.findall(r"^ +(\d) ", outcome.out, re.MULTILINE) == ["1", "2", "3"]
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
def test_037_a_run_whose_images_have_changed(
    stopped: Path, command: Command, change: Callable[[Path], object], words: str, make_images: MakeImages
) -> None:
    """`--resume` where images or classes have changed: exit code 2 saying which; the run is left as it was."""
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
def test_037_flags_that_contradict_the_run(stopped: Path, flag: str, value: str, was: str) -> None:
    """`--resume` with other flags than the run has: exit code 2 with both values."""
    before = content(stopped)
    refuse([*resuming(stopped), flag, value], 2, f"{flag} {value}: the run was started with", was, "Leave the flag out")
    assert content(stopped) == before


@pytest.mark.slow
def test_037_flags_that_change_no_result(stopped: Path, command: Command) -> None:
    """`--resume` with the same flags, or with flags that change no result: accepted."""
    succeed([*resuming(stopped), "--epochs", "3", "-j", "2", "--cache-limit", "1", "--data", command.data])
    assert result(stopped.parent) == command.whole


@pytest.mark.slow
def test_037_a_run_whose_images_have_moved(stopped: Path, command: Command, make_images: MakeImages) -> None:
    """`--resume` where the folder of the images has moved: exit code 2 asking for `--data`, with which it goes on."""
    moved, other = command.data.with_name("Moved"), make_images(stopped.parent / "Other", {"cat": 8, "dog": 8}, size=20)
    shutil.move(command.data, moved)
    try:
        refuse(resuming(stopped), 2, f"its images are gone from {command.data}", "new place with --data")
        refuse([*resuming(stopped), "--data", other], 2, "not the same images")
        succeed([*resuming(stopped), "--data", moved])
        found, whole = result(stopped.parent), dict(command.whole)
        steps = [each.pop("metrics") for each in (found, whole)]
        assert found == whole and {name for name in steps[0] if steps[0][name] != steps[1][name]} == {"next_steps"}
        assert str(moved) in str(steps[0]["next_steps"])  # the commands name the new place
        assert "is already complete" in succeed([*resuming(stopped), "--data", moved]).out
        succeed(["evaluate", "--run", stopped, "--output", stopped.parent])  # at their new place
    finally:
        shutil.move(moved, command.data)
    assert "is already complete" in succeed(resuming(stopped)).out


def test_037_a_run_that_is_not_there(stopped: Path) -> None:
    """`--resume` of a run that does not exist or had not begun: exit code 2."""
    output = stopped.parent
    refuse(["--resume", "7", "--output", output], 2, "--resume 7: no such run")
    (stopped / "config.json").unlink()
    refuse(["--resume", "1", "--output", output], 2, "--resume 1: was stopped before it began", "Start it again")
    refuse(["--resume", stopped, "--output", output], 2, f"--resume {stopped}: there is no config.json in it")
