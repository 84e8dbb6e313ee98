"""The optimizer and its learning-rate schedules, which are functions of progress alone: there is no state to lose.

A new schedule is one function and one entry in `SCHEDULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config

MOMENTUM = 0.9
WARM_UP = 0.1  # share of the training in which `cosine` rises to its full rate
RISE = 0.3  # the same for `onecycle`
LOWEST = 1e-3  # factor at the very end: a rate of 0 would waste the last steps


def constant(progress: float) -> float:
    """Return 1: a constant learning rate."""
    return 1.0


def step(progress: float) -> float:
    """Return the factor of a rate that is divided by ten after half of the training, and again after three quarters.

    Source: the schedule of He et al., Deep Residual Learning, arXiv:1512.03385, section 4.2.
    """
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def cosine(progress: float) -> float:
    """Return the factor of a rate that rises linearly, then falls along half a cosine.

    Source: Loshchilov and Hutter, SGDR, arXiv:1608.03983; the warm-up is Goyal et al.'s, arXiv:1706.02677.
    """
    if progress < WARM_UP:
        return max(progress / WARM_UP, LOWEST)
    return _fall((progress - WARM_UP) / (1 - WARM_UP))


def onecycle(progress: float) -> float:
    """Return the factor of a rate that rises from 1/25 along a cosine for 30 % of the training, then falls to nearly 0.

    Source: Smith and Topin, Super-Convergence, arXiv:1708.07120, with the constants of torch's OneCycleLR.
    """
    if progress < RISE:
        return 1 + (1 / 25 - 1) * 0.5 * (1 + math.cos(math.pi * progress / RISE))
    return _fall((progress - RISE) / (1 - RISE))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "onecycle": onecycle,
}


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters; biases and normalisation (vectors) have no weight decay.

    Each group stores its full rate as `base_lr`; with `layer_decay` it is lower the nearer a stage is to the image
    (Howard and Ruder, ULMFiT, arXiv:1801.06146, section 3.2).
    """
    stages = _stages(model) if config.layer_decay < 1 else [model]
    groups: list[dict[str, Any]] = []
    for depth, stage in enumerate(reversed(stages)):
        lr = config.lr * config.layer_decay**depth
        trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        if config.weight_decay:  # a second group doubles the cost of a step on a head
            decayed = [parameter for parameter in trainable if parameter.ndim > 1]
            trainable = [parameter for parameter in trainable if parameter.ndim <= 1]
            groups.append({"params": decayed, "base_lr": lr, "weight_decay": config.weight_decay})
        groups.append({"params": trainable, "base_lr": lr, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    # fused: one pass over memory for all parameters, on the CPU too.
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=MOMENTUM, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    return torch.optim.Adam(groups, lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]


def _stages(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a classifier, or of its trainable part, from the image to the logits."""
    backbone, head = (model.backbone, model.head) if isinstance(model, Classifier) else model.children()
    return [*backbone.children(), head]


def _fall(progress: float) -> float:
    return LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * progress))
