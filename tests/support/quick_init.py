"""Networks whose weights are filled from one pool of random numbers: drawing them takes longer than using them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

INITIALIZERS = ("trunc_normal_", "normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_", "uniform_")
POOL = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))


@contextmanager
def quick_init() -> Iterator[None]:
    """Within it, the random initializers of `nn.init` fill with numbers of standard deviation 0.05, drawn once."""
    with patch.multiple(nn.init, **dict.fromkeys(INITIALIZERS, _fill)):
        yield


@contextmanager
def no_init() -> Iterator[None]:
    """Within it, the random initializers of `nn.init` do nothing: the weights are arbitrary, and are loaded later."""
    with patch.multiple(nn.init, **dict.fromkeys(INITIALIZERS, _leave)):
        yield


def _fill(tensor: Tensor, *_: object, **__: object) -> Tensor:
    with torch.no_grad():
        for part in tensor.view(-1).split(len(POOL)) if not tensor.is_meta else ():
            part.copy_(0.05 * POOL[: len(part)])
    return tensor


def _leave(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor
