"""Rows 41, 43 and 50 of the fault matrix through the command line: no space, no memory, a loss that is no number."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from MLPipeline import Train
from MLPipeline.files.TensorFile import load_file
from MLPipeline.training.TrainState import TrainState
from tests.support.crash import result
from tests.support.harness import refuse, succeed
from tests.support.stop_cases import Command, resuming

MakeImages = Callable[..., Path]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "moment"), [("last.pt", 1), ("last.pt", 4), ("model.pt", 1), ("history.csv", 1), ("history.png", 1)]
)
def test_a_full_disk_ends_it_and_what_was_saved_still_loads(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch, file: str, moment: int
) -> None:
    """Row 41: no space for the n-th writing of a file; once there is some, the run goes on."""
    replace, calls = os.replace, []

    def full(source: Any, target: Any) -> None:
        calls.append(Path(target).name)
        if calls.count(file) >= moment:
            no_space()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        outcome = refuse(resuming(stopped), 3, f"{stopped}/", "cannot be written (No space left on device)")
    assert f"to resume: python Engine.py --resume {stopped}" in outcome.notes
    assert load_file(stopped / "last.pt") and load_file(stopped / "model.pt")
    assert not list(stopped.glob(".*")) and not (stopped / "metrics.json").exists()
    succeed(resuming(stopped))
    assert result(stopped.parent) == command.whole


def test_a_loss_that_is_no_number_never_reaches_the_weights(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 50: the second step that is taken fails."""
    stepped, losses = [], iter([1.0, float("nan")])
    cross_entropy, step = Train.cross_entropy, TrainState.step
    monkeypatch.setattr(Train, "cross_entropy", lambda *given, **named: cross_entropy(*given, **named) * next(losses))
    monkeypatch.setattr(TrainState, "step", lambda state: (stepped.append(1), step(state))[1])
    before = load_file(stopped / "model.pt")
    refuse(resuming(stopped), 4, "epoch 3, batch 1: the loss is nan at --lr 0.05", "Try --lr 0.005")
    assert len(stepped) == 1
    last, best = load_file(stopped / "last.pt"), load_file(stopped / "model.pt")
    for state in (last["state"]["model"], best["state_dict"]):  # type: ignore[index,call-overload]
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert best["epoch"] >= before["epoch"] > 0  # type: ignore[index,call-overload]
    history = pd.read_csv(stopped / "history.csv")
    assert history["val_loss"].notna().all() and history["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["cuda", "cpu"],
)
def test_memory_that_never_suffices(stopped: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Row 43."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Train, "cross_entropy", fail)
    outcome = refuse(resuming(stopped), 3, "out of memory at a single image", "Use a smaller --image-size")
    assert [note for note in outcome.notes if "parts" in note] == [
        f"out of memory: a batch is now computed in {parts} parts; its size stays the same" for parts in (2, 4)
    ]


@pytest.mark.slow
def test_memory_that_is_short_elsewhere_is_no_bug_of_ours(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("MLPipeline.steps.FinishRun.measure", fail)
    refuse(resuming(stopped), 3, "out of memory (Unable to allocate 9 TiB)")
