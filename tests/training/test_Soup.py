"""The mean of the weights of several trainings."""

from __future__ import annotations

import torch

from MLPipeline.training.Soup import Soup, State, blended


def state(value: float, number: int = 1) -> State:
    return {"weight": torch.tensor([value, -value]), "num_batches_tracked": torch.tensor(number)}


def test_blended_is_the_weighted_mean_of_weights() -> None:
    mixed = blended(state(0.0, 3), state(4.0, 5), 0.25)
    assert mixed["weight"].tolist() == [1.0, -1.0] and mixed["num_batches_tracked"].item() == 3


def test_a_soup_is_the_mean_of_its_members() -> None:
    soup = Soup(state(1.0), 0.5)
    for number, value in ((2, 2.0), (4, 9.0)):
        soup = soup.added(number, state(value), lambda mean: float(mean["weight"][0]))
    assert soup.members == (1, 2, 4)
    assert soup.weights["weight"].tolist() == [4.0, -4.0] and soup.loss == 4.0
