"""Stops training at any point and resumes it from `last.pt`, as another process would; for tests of resuming."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches
from MLPipeline.Train import do_nothing, fit
from MLPipeline.training.Resume import Saver, load_standing
from MLPipeline.training.TrainState import TrainState
from tests.support.train_cases import CPU

Alter = Callable[[dict[str, Any]], object]


def unaltered(stored: dict[str, Any]) -> None:
    """Leave the content of `last.pt` unchanged."""


class Stopped(KeyboardInterrupt):
    """Raised at the end of a training step, like after a signal."""


@dataclass(frozen=True)
class Training:
    """Training that can be stopped and resumed; `make` returns the module, with random weights from a seed."""

    make: Callable[[int], nn.Module]
    train: Batches
    val: Batches
    config: Config
    folder: Path  # where `last.pt` is written

    def run(self, stop_at: int = 0, alter: Alter = unaltered) -> dict[str, Any]:
        """Return the final state of training that stops at the `stop_at`-th check (0: never) and is then resumed."""
        state = TrainState(self.make(0), self.config, CPU)
        try:
            self._fit(state, self.saver(stop_at))
        except Stopped:
            return self.resume(alter)
        return content_of(state)

    def resume(self, alter: Alter = unaltered) -> dict[str, Any]:
        """Return the final state of training that is resumed from `last.pt`, whose content `alter` may change.

        As in a new process, it uses a new module with different weights.
        """
        standing = load_standing(self.folder, {})
        assert standing is not None
        stored = dict(standing.state)
        alter(stored)
        state = TrainState(self.make(99), self.config, CPU)
        state.load_state_dict(stored)
        self._fit(state, do_nothing)
        return content_of(state)

    def num_stops(self) -> int:
        """Return how often training checks whether to stop: after each training step and each scored batch."""
        saver = self.saver()
        self._fit(TrainState(self.make(0), self.config, CPU), saver)
        return saver.num_asked

    def saver(self, stop_at: int = 0) -> CountingSaver:
        """Return a saver that writes `last.pt` and stops training at the `stop_at`-th check."""
        return CountingSaver(self.folder, stop_at)

    def _fit(self, state: TrainState, after_step: Callable[[TrainState], None]) -> None:
        for _ in fit(state.model, self.train, self.val, self.config, CPU, state=state, after_step=after_step):
            torch.rand(3)  # random numbers that a caller draws between epochs


class CountingSaver(Saver):
    """Saves, and stops at the n-th check."""

    def __init__(self, folder: Path, stop_at: int) -> None:
        super().__init__(folder, {}, 0, 1, None, self._stop)
        self.num_asked, self.stop_at = 0, stop_at

    def _stop(self) -> None:
        self.num_asked += 1
        if self.num_asked == self.stop_at:
            raise Stopped


def content_of(state: TrainState) -> dict[str, Any]:
    """Return the complete content of a training state, with copied tensors and without the seconds of its epochs."""
    found = copy.deepcopy(state.state_dict())
    for record in found["history"]:
        del record["seconds"]
    return found


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Return the names of the entries in which two states differ; numbers and tensors are compared bit by bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        is_equal = first.dtype == second.dtype and first.numpy().tobytes() == second.numpy().tobytes()
    elif isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return [each for key in first for each in differences(first[key], second[key], f"{name}.{key}")]
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        return [
            each for n, pair in enumerate(zip(first, second, strict=True)) for each in differences(*pair, f"{name}.{n}")
        ]
    else:
        is_equal = type(first) is type(second) and (first == second or first != first and second != second)
    return [] if is_equal else [name]
