"""Stops a training anywhere and goes on from what `last.pt` holds, as another process would; for tests of resuming."""

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
    """Leave what `last.pt` says as it is."""


class Stopped(KeyboardInterrupt):
    """What a signal does to a training at the end of its step."""


@dataclass(frozen=True)
class Training:
    """A training that can be stopped: `make` gives the module, with the random weights of a seed."""

    make: Callable[[int], nn.Module]
    train: Batches
    val: Batches
    config: Config
    folder: Path  # where `last.pt` is written

    def run(self, stop_at: int = 0, alter: Alter = unaltered) -> dict[str, Any]:
        """Return what a training leaves that is stopped when asked the `stop_at`-th time (0: never), then resumed."""
        state = TrainState(self.make(0), self.config, CPU)
        try:
            self._fit(state, self.saver(stop_at))
        except Stopped:
            return self.resume(alter)
        return told(state)

    def resume(self, alter: Alter = unaltered) -> dict[str, Any]:
        """Return what is left of a training that goes on from `last.pt`, of which `alter` may change what it says.

        As the process is gone, it does so with another module, that has other weights.
        """
        standing = load_standing(self.folder, {})
        assert standing is not None
        stored = dict(standing.state)
        alter(stored)
        state = TrainState(self.make(99), self.config, CPU)
        state.load_state_dict(stored)
        self._fit(state, do_nothing)
        return told(state)

    def num_stops(self) -> int:
        """Return how often the training asks whether it is to stop: after each step, and each batch it scores."""
        saver = self.saver()
        self._fit(TrainState(self.make(0), self.config, CPU), saver)
        return saver.num_asked

    def saver(self, stop_at: int = 0) -> CountingSaver:
        """Return what writes `last.pt`, and stops the training when asked the `stop_at`-th time."""
        return CountingSaver(self.folder, stop_at)

    def _fit(self, state: TrainState, after_step: Callable[[TrainState], None]) -> None:
        for _ in fit(state.model, self.train, self.val, self.config, CPU, state=state, after_step=after_step):
            torch.rand(3)  # what the caller draws between epochs


class CountingSaver(Saver):
    """Saves and stops when asked the n-th time."""

    def __init__(self, folder: Path, stop_at: int) -> None:
        super().__init__(folder, {}, 0, 0, None, self._stop)
        self.num_asked, self.stop_at = 0, stop_at

    def _stop(self) -> None:
        self.num_asked += 1
        if self.num_asked == self.stop_at:
            raise Stopped


def told(state: TrainState) -> dict[str, Any]:
    """Return all that a training state holds, its tensors copied, without the seconds of its epochs."""
    found = copy.deepcopy(state.state_dict())
    for record in found["history"]:
        del record["seconds"]
    return found


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Return where two states differ: every number and every tensor, to the bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        alike = first.dtype == second.dtype and first.numpy().tobytes() == second.numpy().tobytes()
    elif isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        return [each for key in first for each in differences(first[key], second[key], f"{name}.{key}")]
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        return [
            each for n, pair in enumerate(zip(first, second, strict=True)) for each in differences(*pair, f"{name}.{n}")
        ]
    else:
        alike = type(first) is type(second) and (first == second or first != first and second != second)
    return [] if alike else [name]
