"""The optimizer's groups, and the schedules of its learning rate, against the numbers of their papers and of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from MLPipeline.Config import Config
from MLPipeline.training.Optimizer import LOWEST, RISE, SCHEDULES, WARM_UP, make_optimizer, set_learning_rate
from tests.support.train_cases import network, settings


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0, 1),
        ("constant", 1, 1),
        ("step", 0, 1),
        ("step", 0.4999, 1),
        ("step", 0.5, 0.1),
        ("step", 0.7499, 0.1),
        ("step", 0.75, 0.01),
        ("step", 1, 0.01),
        ("cosine", 0, LOWEST),
        ("cosine", WARM_UP / 2, 0.5),
        ("cosine", WARM_UP, 1),
        ("cosine", (1 + WARM_UP) / 2, (1 + LOWEST) / 2),
        ("cosine", 1, LOWEST),
        ("onecycle", 0, 1 / 25),
        ("onecycle", RISE / 2, (1 + 1 / 25) / 2),
        ("onecycle", RISE, 1),
        ("onecycle", (1 + RISE) / 2, (1 + LOWEST) / 2),
        ("onecycle", 1, LOWEST),
    ],
)
def test_schedules_at_their_corners(schedule: str, progress: float, factor: float) -> None:
    assert SCHEDULES[schedule](progress) == pytest.approx(factor)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_never_leaves_its_range_and_has_one_peak(schedule: str) -> None:
    factors = [SCHEDULES[schedule](step / 1000) for step in range(1001)]
    assert min(factors) >= LOWEST and max(factors) == 1
    top = factors.index(1)
    assert factors[:top] == sorted(factors[:top]) and factors[top:] == sorted(factors[top:], reverse=True)


def test_onecycle_is_torchs() -> None:
    optimizer, num_steps = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1), 101
    peak = (RISE * (num_steps - 1) + 1) / num_steps  # torch has its peak one step before this part of all steps
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1, total_steps=num_steps, pct_start=peak, final_div_factor=1 / 25 / LOWEST, cycle_momentum=False
    )
    for step in range(num_steps):
        assert SCHEDULES["onecycle"](step / (num_steps - 1)) == pytest.approx(torchs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < num_steps - 1:
            torchs.step()


def rates(model: nn.Module, config: Config) -> dict[str, tuple[float, float]]:
    """Return (learning rate, weight decay) of every parameter by name."""
    groups = make_optimizer(model, config).param_groups
    found = {id(p): (group["base_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found), "a parameter is in two groups"
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


def test_layer_decay_lowers_the_rate_towards_the_image() -> None:
    found = rates(network(), settings(lr=0.1, layer_decay=0.5))
    assert {name.rsplit(".", 2)[0]: rate for name, (rate, _) in found.items()} == pytest.approx(
        {"head": 0.1, "backbone.block": 0.05, "backbone.stem": 0.025}
    )
    assert make_optimizer(network(), settings(lr=0.1, layer_decay=0.5)).param_groups[0]["lr"] == 0.1  # the head's


@pytest.mark.parametrize("until", ["stem", "backbone"])
def test_layer_decay_of_the_part_that_is_trained(until: str) -> None:
    model = network()
    model.freeze(until)
    whole = rates(model, settings(lr=0.1, layer_decay=0.5))
    part = rates(model.trainable_part(), settings(lr=0.1, layer_decay=0.5))
    assert sorted(whole.values()) == sorted(part.values()) and len(whole) == {"stem": 6, "backbone": 2}[until]
    assert all(not name.startswith("backbone.stem") for name in whole)


def test_weight_decay_is_for_matrices_and_kernels_alone() -> None:
    found = rates(network(), settings(weight_decay=0.2, layer_decay=0.9))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert decayed == {"backbone.stem.0.weight", "backbone.block.0.weight", "head.1.weight"}
    assert {decay for _, decay in found.values()} == {0.0, 0.2} and len(found) == len([*network().parameters()])


@pytest.mark.parametrize("stated", [{}, {"weight_decay": 0.1}, {"layer_decay": 0.5}], ids=str)
def test_setting_the_rate_keeps_the_groups_apart(stated: dict[str, Any]) -> None:
    optimizer = make_optimizer(network(), settings(lr=0.1, **stated))
    full = [group["base_lr"] for group in optimizer.param_groups]
    for factor in (0.5, 0.25):  # of the full rate, not of the last
        set_learning_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor * lr for lr in full])
