"""The phases of a run through the command line: what each trains, what is kept, how the time is planned."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from MLPipeline import Train
from MLPipeline.Errors import ResourceError
from MLPipeline.files.TensorFile import load_file
from MLPipeline.steps import FitPhases
from tests.support.crash import SignalAt, prepare
from tests.support.harness import refuse, run, succeed
from tests.support.stop_cases import Command, resuming

MakeImages = Callable[..., Path]
FLAGS = "--model made_up --unfreeze-after 1 --epochs 3 -b 4"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Command:
    return Command(tmp_path_factory.mktemp("phases"), make_images, FLAGS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch.setattr, None)


def weights(path: Path) -> dict[str, torch.Tensor]:
    stored: Any = load_file(path / "model.pt")
    return stored["state_dict"]


def backbone_moved(path: Path, command: Command) -> bool:
    """Return whether the backbone is not the one that training began with: that of the head alone."""
    before = weights(command.output / "head")
    return any(not torch.equal(before[name], tensor) for name, tensor in weights(path).items() if "backbone" in name)


@pytest.fixture(scope="module", autouse=True)
def _head_alone(command: Command) -> None:
    """Train the head alone, with the same seed: its backbone is the one that training begins with."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch.setattr, None)
        flags = [*command.flags, "--output", command.root / "head", "--freeze", "backbone", "--epochs", "1"]
        flags = [
            flag for flag, before in zip(flags, ["", *flags], strict=False) if "--unfreeze-after" not in (flag, before)
        ]
        succeed(flags)
    shutil.copytree(command.root / "head" / "001-run", command.output / "head")


def test_the_head_first_then_all_and_the_epochs_count_on(command: Command) -> None:
    path = command.output / "001-run"
    history = pd.read_csv(path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["lr"].iloc[0] == 0.01  # the model's own for the head
    assert (history["lr"].iloc[1:] < 0.001).all() and history["lr"].iloc[1] > history["lr"].iloc[2]  # cosine
    assert load_file(path / "model.pt")["epoch"] == history["val_loss"].idxmin() + 1  # type: ignore[index,call-overload]
    head = pd.read_csv(command.output / "head" / "history.csv")
    figures = ["train_loss", "train_accuracy", "val_accuracy"]
    assert head[figures].iloc[0].tolist() == history[figures].iloc[0].tolist()  # the first phase is that very training
    assert 0 < history["val_loss"].iloc[0] < head["val_loss"].iloc[0]  # at the temperature at which it is lowest


@pytest.mark.parametrize(("losses", "best"), [([0.1, 0.2, 0.3], 1), ([0.3, 0.1, 0.2], 2), ([0.3, 0.2, 0.1], 3)])
def test_the_better_of_the_two_is_kept(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], best: int
) -> None:
    scores = iter(losses)
    monkeypatch.setattr(Train, "_figures", lambda predictions: (next(scores), 0.5))
    monkeypatch.setattr(Train, "_is_whole_average", lambda *_: False)
    succeed([*command.flags, "--output", tmp_path])
    path = tmp_path / "001-run"
    assert load_file(path / "model.pt")["epoch"] == best  # type: ignore[index,call-overload]
    assert backbone_moved(path, command) == (best > 1)


def test_the_head_is_remembered_for_the_comparison(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the head said of the validation images is there after a resume in the second phase, too."""
    seen = []
    fit_phase = FitPhases._fit_phase

    def spied(job: Any, *arguments: Any) -> None:
        seen.append(None if job.head is None else job.head.logits.clone())
        fit_phase(job, *arguments)
        seen.append(job.head.logits.clone())

    monkeypatch.setattr(FitPhases, "_fit_phase", spied)
    succeed([*command.flags, "--output", tmp_path / "whole"])
    command.interrupt(tmp_path / "stopped", SignalAt("step", 5, signal=signal.SIGINT))
    succeed(resuming(tmp_path / "stopped" / "001-run"))
    assert seen[0] is None and torch.equal(seen[1], seen[3]) and torch.equal(seen[1], seen[-1]) and len(seen[1]) == 2


class Estimates:
    """Tells how long an epoch takes, and counts how often it is asked."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.num_asked = itertools.cycle(seconds), 0

    def __call__(self, *_: object) -> float:
        self.num_asked += 1
        return next(self.seconds)


@pytest.mark.parametrize(("seconds", "num_epochs"), [(1.0, 8), (25.0, 4), (1e4, 1)])
def test_as_much_as_the_time_allows(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, num_epochs: int
) -> None:
    """In 90 seconds, less a tenth, less a few that have passed: one epoch of the head, and of all layers what fits."""
    monkeypatch.setattr(FitPhases, "seconds_per_epoch", Estimates(seconds))
    monkeypatch.setattr(FitPhases.time, "perf_counter", itertools.count(0, 0.01).__next__)
    outcome = succeed([*command.flags, "--epochs", "8", "--time", "1.5", "--output", tmp_path])
    done = pd.read_csv(tmp_path / "001-run" / "history.csv")["epoch"].tolist()
    told = [line for line in outcome.out.splitlines() if line.startswith("time ")]
    assert len(told) == 1 and f"about {seconds:.0f} s: " in told[0]
    assert done == list(range(1, 1 + num_epochs))


def test_a_plan_once_made_is_kept_when_the_run_goes_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimate depends on what else the machine does: asked again, it would give another number of epochs."""
    asked = Estimates(25.0)
    with monkeypatch.context() as patch:
        prepare(patch.setattr, SignalAt("step", 5, signal=signal.SIGINT))
        patch.setattr(FitPhases, "seconds_per_epoch", asked)
        patch.setattr(FitPhases.time, "perf_counter", itertools.count(0, 0.01).__next__)
        assert run([*command.flags, "--epochs", "8", "--time", "1.5", "--output", tmp_path]).code == 130
    monkeypatch.setattr(FitPhases, "seconds_per_epoch", Estimates(1e9))
    outcome = succeed(resuming(tmp_path / "001-run"))
    assert asked.num_asked == 1 and "time  " not in outcome.out
    assert pd.read_csv(tmp_path / "001-run" / "history.csv")["epoch"].tolist() == [1, 2, 3, 4]  # not 8


def test_an_error_keeps_the_best_weights(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = FitPhases.say

    def failing(text: str = "") -> None:
        if text.startswith("    3 "):
            raise ResourceError("the disk is full", "Free space")
        said(text)

    monkeypatch.setattr(FitPhases, "say", failing)
    losses = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(Train, "_figures", lambda predictions: (next(losses), 0.5))
    monkeypatch.setattr(Train, "_is_whole_average", lambda *_: False)
    outcome = run([*command.flags, "--output", tmp_path])
    path = tmp_path / "001-run"
    assert outcome.code == 3
    assert load_file(path / "model.pt")["epoch"] == 2, outcome.err  # type: ignore[index,call-overload]
    assert pd.read_csv(path / "history.csv")["val_loss"].tolist() == [0.3, 0.1, 0.2]
    assert f"to resume: python Engine.py --resume {path}" in outcome.notes


def test_without_room_for_features_a_run_cannot_go_on(command: Command, tmp_path: Path) -> None:
    """Its head was trained on stored features, and is to be trained on images now: not the same numbers."""
    command.interrupt(tmp_path, SignalAt("step", 2, signal=signal.SIGINT))
    path = tmp_path / "001-run"
    refuse([*resuming(path), "--cache-limit", "0"], 2, f"--resume {path}: the cache has not the room", "--cache-limit")
    succeed(resuming(path))


def test_a_state_of_the_first_phase_has_the_head_alone(command: Command, tmp_path: Path) -> None:
    command.interrupt(tmp_path, SignalAt("step", 2, signal=signal.SIGINT))
    stored: Any = load_file(tmp_path / "001-run" / "last.pt")
    assert (stored["phase"], stored["num_epochs"], stored["head"]) == (0, 1, None)
    assert set(stored["state"]["model"]) == {"1.weight", "1.bias"}
