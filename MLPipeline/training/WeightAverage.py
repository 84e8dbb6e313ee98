"""Averages of the weights of a network over its training: over the steps, or over the epochs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, weight_of: Callable[[int], float]) -> AveragedModel:
    """Return an average of the weights of `model`, BatchNorm's statistics included.

    `weight_of` returns the weight of the newest ones, given the number of those averaged before.
    """

    @torch.no_grad()
    def move(averages: Tensors, currents: Tensors, number: Tensor | int) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, weight_of(int(number)))
        else:  # BatchNorm's counter of batches
            torch._foreach_copy_(averages, currents)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)


def moving(decay: float) -> Callable[[int], float]:
    """Return the weights of an exponential moving average over steps.

    Early on it follows the weights more closely, since it would otherwise keep the random initial ones for long: the
    decay grows with the number of steps n as (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """
    return lambda number: 1 - min(decay, (1 + number) / (10 + number))


def equal(number: int) -> float:
    """Return the weight with which all are averaged equally."""
    return 1 / (number + 1)
