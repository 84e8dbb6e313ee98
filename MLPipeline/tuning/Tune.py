"""Searches for the best settings of a head on stored features; Optuna proposes the trials.

    search = Search(part, config, folder)
    while time_is_left: trial = search.next_trial()
    sorted(search.trials, key=lambda trial: trial.val_loss)[:10]

A trial calls `Train.fit`, so its result is what training with these settings gives. Trials are compared by their lowest
validation loss, the criterion that also chooses the best epoch of a run; unlike accuracy, it distinguishes heads that
classify the same images correctly. Test images are not used.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches, Rows
from MLPipeline.Errors import DivergedError
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.Head import make_head, own_dropout
from MLPipeline.images.ScanFolders import TRAIN, VAL, ImageIndex
from MLPipeline.Train import AfterStep, do_nothing, fit
from MLPipeline.tuning.Study import Trial as Asked
from MLPipeline.tuning.Study import TrialState, importances, make_sampler, open_study

LOWEST_LR, HIGHEST_LR = 1e-4, 0.3
# The values of the other settings. Hidden 0 is a linear head. Smaller batches take too long for hundreds of trials, and
# larger ones with a higher learning rate are as good.
LEVELS: Mapping[str, tuple[Any, ...]] = {
    "optimizer": ("adam", "adamw", "sgd"),
    "batch_size": (32, 64, 128, 256),
    "weight_decay": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "label_smoothing": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
    "dropout": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "hidden": (0, 64, 256),
}
_OF_HEAD = ("dropout", "hidden")  # settings of the layers, not of the training
_MAX_BYTES = 2**31  # of features held in memory
_RECORD = "trial"  # name of the trial's attribute in Optuna's study


@dataclass(frozen=True)
class Trial:
    """The result of training with some settings."""

    number: int  # from 1; the first has the model's own settings
    settings: Mapping[str, Any]  # lr and those of LEVELS
    val_loss: float  # of its best epoch; infinite if it diverged at once
    val_accuracy: float
    epoch: int  # the best one
    is_pruned: bool  # stopped early: worse than the median of the complete trials
    seconds: float


@dataclass(frozen=True)
class MemoryRows:
    """The features of some images of an index, in memory."""

    features: Tensor  # (M, D) float32
    places: np.ndarray  # (N,) int64 row of each image; -1: none

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.features[0].numel() * self.features.element_size()

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return the features (B, D) of these images."""
        return self.features[torch.from_numpy(self.places[positions])]


def in_memory(rows: Rows, index: ImageIndex, device: torch.device) -> Rows:
    """Return the rows of training and validation images on `device`; `rows` itself if they need too much memory."""
    chosen = (index.splits == TRAIN) | (index.splits == VAL)
    if int(chosen.sum()) * rows.take(np.flatnonzero(chosen)[:1], 0).nbytes > _MAX_BYTES:
        return rows
    places = np.where(chosen, np.cumsum(chosen) - 1, -1)
    return MemoryRows(rows.take(np.flatnonzero(chosen), 0).to(device), places)


@dataclass(frozen=True)
class Problem:
    """What the trials train: the head of the model, on the features of the images."""

    head: nn.Module
    rows: Rows
    index: ImageIndex
    device: torch.device


class Search:
    """Trials, saved in the existing `folder`; a later search continues there, with the result of an uninterrupted one.

    Each trial depends on `config.seed` and the trials before it. One process at a time may use the folder.

    Raises:
        ResourceError: the folder cannot be written.
    """

    def __init__(self, problem: Problem, config: Config, folder: Path) -> None:
        self.problem, self.config = problem, config
        of_config = {name: getattr(config, name) for name in ("lr", *LEVELS) if name not in _OF_HEAD}
        self.own = of_config | {"dropout": own_dropout(problem.head), "hidden": 0}
        self._study = open_study(folder)
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        self.trials = [Trial(**each.user_attrs[_RECORD]) for each in finished]
        self.num_known = len(self.trials)  # found in the folder
        self._folder = folder

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest validation loss."""
        complete = [trial for trial in self.trials if not trial.is_pruned]
        return min(complete, key=lambda trial: trial.val_loss, default=None)

    def next_trial(self, after_step: AfterStep = do_nothing) -> Trial:
        """Run and return the most promising trial; an exception raised by `after_step` ends it.

        Raises:
            ResourceError: the disk is full.
        """
        self._study.sampler = make_sampler(self.config.seed, len(self.trials))
        if not self.trials:
            self._study.enqueue_trial({name: _coded(name, value) for name, value in self.own.items()})
        try:
            asked = self._study.ask()
            try:
                settings = _settings(asked)
                trial = self._run(asked, settings if self.trials else self.own, after_step)
            except BaseException:
                self._study.tell(asked, state=TrialState.FAIL)
                raise
            asked.set_user_attr(_RECORD, vars(trial))
            state = TrialState.PRUNED if trial.is_pruned else TrialState.COMPLETE
            self._study.tell(asked, None if trial.is_pruned else trial.val_loss, state)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self.trials.append(trial)
        return trial

    def importances(self) -> dict[str, float]:
        """Return how much each setting matters for being among the best tenth; shares of 1, the largest first."""
        return importances(self._study)

    def _run(self, asked: Asked, settings: dict[str, Any], after_step: AfterStep) -> Trial:
        problem, start = self.problem, time.perf_counter()
        config = replace(self.config, **{name: settings[name] for name in settings if name not in _OF_HEAD})
        head = make_head(copy.deepcopy(problem.head), settings["hidden"] or None, settings["dropout"], config.seed)
        part = nn.Sequential(nn.Sequential(), head)  # as `Classifier.trainable_part` has it
        train = Batches(problem.rows, problem.index, TRAIN, config.batch_size, config.seed)
        val = Batches(problem.rows, problem.index, VAL, config.batch_size)
        best, is_pruned = (math.inf, 0.0, 0), False
        try:
            for record in fit(part, train, val, config, problem.device, after_step=after_step):
                if record.is_best:
                    best = record.val_loss, record.val_accuracy, record.epoch
                asked.report(record.val_loss, record.epoch)
                if record.epoch < config.epochs and asked.should_prune():
                    is_pruned = True
                    break
        except DivergedError:
            is_pruned = True
        return Trial(len(self.trials) + 1, settings, *best, is_pruned, round(time.perf_counter() - start, 3))


def nearest(levels: tuple[Any, ...], value: Any) -> int:
    """Return the index of the level closest to `value`."""
    return levels.index(value) if value in levels else int(np.abs(np.subtract(levels, value)).argmin())


def _settings(asked: Asked) -> dict[str, Any]:
    """Return the settings that the sampler proposes, with numbers short enough to type."""
    settings: dict[str, Any] = {"lr": float(f"{asked.suggest_float('lr', LOWEST_LR, HIGHEST_LR, log=True):.3g}")}
    for name, levels in LEVELS.items():
        if name == "optimizer":
            settings[name] = asked.suggest_categorical(name, levels)
        else:  # as an index: neighbouring levels are similar
            settings[name] = levels[asked.suggest_int(name, 0, len(levels) - 1)]
    return settings


def _coded(name: str, value: Any) -> Any:
    """Return `value` as the sampler encodes it; a model's own value that is not a level becomes the nearest one."""
    if name == "lr":
        return min(max(value, LOWEST_LR), HIGHEST_LR)
    return value if name == "optimizer" else nearest(LEVELS[name], value)
