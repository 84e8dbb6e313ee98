"""The mean of the weights of several trainings of one network, as long as each lowers the validation loss.

Trainings that start from the same pretrained weights often end in one region of low loss. The mean of their weights is
a single network, no slower than one of them; whether it is better, validation images must say.

Source: Wortsman et al., Model soups, arXiv:2203.05482. Theirs begins with the best training, this one with the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = Mapping[str, Tensor]  # the weights of a network by their names, BatchNorm's statistics included


@dataclass(frozen=True)
class Soup:
    """The mean of the weights of some trainings, and its validation loss."""

    weights: State
    loss: float
    members: tuple[int, ...] = (1,)  # the numbers of these trainings

    def added(self, number: int, weights: State, loss_of: Callable[[State], float]) -> Soup:
        """Return the mean with the weights of the training `number` added, whether or not `loss_of` it is lower."""
        members = (*self.members, number)
        mean = blended(self.weights, weights, 1 / len(members))
        return Soup(mean, loss_of(mean), members)


def blended(weights: State, others: State, share: float) -> State:
    """Return the weights of two trainings of one network, those of the other with a `share` of 0 to 1."""
    return {
        name: torch.lerp(value, others[name], share) if value.is_floating_point() else value
        for name, value in weights.items()
    }
