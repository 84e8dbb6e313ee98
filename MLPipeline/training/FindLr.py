"""The learning-rate range test: one short training with a rising rate shows at which rates a model learns.

Source: Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3. The rate it suggests
is a tenth of the rate with the lowest loss, as in fastai: there the loss falls fast, far below the rate at which it
explodes.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches
from MLPipeline.Device import autocast
from MLPipeline.Errors import DivergedError
from MLPipeline.images.ReadAhead import Progress, no_progress
from MLPipeline.training.Optimizer import set_learning_rate
from MLPipeline.training.TrainState import TrainState

LOWEST, HIGHEST = 1e-6, 10.0
NUM_STEPS = 140  # twenty for each factor of ten
_SMOOTHING = 0.9  # of the running mean of the losses: single batches differ
_EXPLODED = 2.0  # times the lowest loss


@dataclass(frozen=True)
class RangeTest:
    """The losses of a training with a rising rate; both lists have the same length."""

    rates: list[float]
    losses: list[float]  # running mean over the batches

    @property
    def suggested(self) -> float:
        """The rate to train with, to two digits."""
        return float(f"{self.rates[self.losses.index(min(self.losses))] / 10:.2g}")


def find_lr(
    model: nn.Module, train: Batches, config: Config, device: torch.device, progress: Progress = no_progress
) -> RangeTest:
    """Return the losses of a copy of `model` as the learning rate rises from 1e-6 to where the loss explodes.

    `config` gives everything but the rate: optimizer, weight decay, label smoothing.

    Raises:
        DivergedError: the loss is not finite from the start.
    """
    state = TrainState(copy.deepcopy(model), config, device)
    batches = itertools.chain.from_iterable(train.epoch(epoch) for epoch in itertools.count(1))
    torch.manual_seed(config.seed % 2**63)  # dropout
    state.model.train()
    found, mean = RangeTest([], []), 0.0
    for step, (inputs, targets) in enumerate(progress(itertools.islice(batches, NUM_STEPS), "find-lr", NUM_STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
        set_learning_rate(state.optimizer, rate / config.lr)
        state.zero_grad()
        with autocast(device, state.dtype):
            logits = state.model(inputs.to(device))
        loss = cross_entropy(logits.float(), targets.to(device), label_smoothing=config.label_smoothing)
        state.scaler.scale(loss).backward()
        state.step()
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss.item()
        smoothed = mean / (1 - _SMOOTHING ** (step + 1))  # the mean began at 0
        if not math.isfinite(smoothed) or (found.losses and smoothed > _EXPLODED * min(found.losses)):
            break
        found.rates.append(rate)
        found.losses.append(smoothed)
    if not found.rates:
        raise DivergedError(f"--find-lr: the loss is {mean} even at a learning rate of {LOWEST:g}", "Check --weights")
    return found
