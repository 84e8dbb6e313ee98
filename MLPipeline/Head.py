"""The head of a classifier: changed for `--hidden` and `--dropout`, or given weights that were solved for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from MLPipeline.Errors import UsageError


def make_head(head: nn.Module, hidden: int | None, dropout: float | None, seed: int = 0) -> nn.Module:
    """Return `head` with dropout before its last layer and, with `hidden`, with one more layer.

        (B, D) -> rest of the head -> [linear: (B, hidden) -> ReLU] -> dropout -> linear: (B, C)

    If both are None, the head is returned unchanged.

    Args:
        head: the model's own head; its last layer keeps its weights unless a hidden layer is added.
        hidden: width of the hidden layer; None for no such layer.
        dropout: dropout rate before the last layer; None for the head's own.
        seed: of the initial weights; the global random generator is not used.

    Raises:
        UsageError: the head does not end in a linear layer.
    """
    if hidden is None and dropout is None:
        return head
    dropout = own_dropout(head) if dropout is None else dropout
    *rest, last = _layers(head)
    while rest and isinstance(rest[-1], nn.Dropout):
        rest.pop()
    if hidden:
        device = last.weight.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            layer, last = nn.Linear(last.in_features, hidden), nn.Linear(hidden, last.out_features)
        rest += [layer.to(device), nn.ReLU()]
        last = last.to(device)
    return nn.Sequential(*rest, *([nn.Dropout(dropout)] if dropout else []), last)


def is_single_layer(head: nn.Module) -> bool:
    """Return whether `head` is one linear layer, perhaps after dropout, so that it can be solved."""
    *rest, last = list(head) if isinstance(head, nn.Sequential) else [head]
    return isinstance(last, nn.Linear) and last.bias is not None and all(isinstance(each, nn.Dropout) for each in rest)


def set_layer(head: nn.Module, weights: Tensor, bias: Tensor) -> None:
    """Make the linear layer of a single-layer `head` compute `features @ weights (D, C) + bias (C,)`."""
    layer = _layers(head)[-1]
    with torch.no_grad():
        layer.weight.copy_(weights.T)
        layer.bias.copy_(bias)


def own_dropout(head: nn.Module) -> float:
    """Return the rate of the dropout before the last layer of `head`; 0 if there is none."""
    before = _layers(head)[-2:-1]
    return before[0].p if before and isinstance(before[0], nn.Dropout) else 0.0


def _layers(head: nn.Module) -> list:
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    if not layers or not isinstance(layers[-1], nn.Linear):
        what = "--hidden, --dropout: the last layer of this model is not a linear one"
        raise UsageError(what, "Leave the flags out, or choose another --model")
    return layers
