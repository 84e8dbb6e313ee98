"""Every network of torchvision takes one step of training; the large ones on the meta device, without numbers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_Torchvision import QUICK, SLOW
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.models import regnet

from MLPipeline.Models import build_model, find_model
from MLPipeline.Torchvision_Model import MODELS
from tests.support.quick_init import quick_init

TOO_LARGE = ("regnet_y_128gf", "vit_h_14")  # more than 600 million weights
MANY = 60_000_000  # weights from which a network has no numbers here, unless it stands for its family


@pytest.fixture(autouse=True)
def _quick_to_build(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compute = regnet.BlockParams.from_init_params.__func__

    def compute_with_numbers(*arguments: Any, **options: Any) -> regnet.BlockParams:
        with torch.device("cpu"):  # it reads numbers out of tensors, and those on "meta" have none
            return compute(*arguments, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(compute_with_numbers))
    with quick_init():
        yield


def num_weights(name: str) -> int:
    """The number of weights of the published network."""
    return models.get_model_weights(name).DEFAULT.meta["num_params"]


def size_of(name: str) -> int:
    return 224 if name in TOO_LARGE else find_model(name).min_image_size


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    size = size_of(name)
    has_numbers = name in (*QUICK, *SLOW.split()) or num_weights(name) < MANY
    with torch.device("cpu" if has_numbers else "meta"):
        model = build_model(name, 3, size)
        images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
        logits = model.train()(images)
        assert logits.shape == (2, 3)
        cross_entropy(logits, torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not [key for key, weight in model.named_parameters() if weight.grad is None]
    if has_numbers:
        assert all(bool(weight.isfinite().all()) for weight in model.parameters())
        assert bool(model.head.last.weight.grad.any()), "the last layer has not moved"


def test_the_giants_are_giants() -> None:
    assert all(num_weights(name) > 6e8 for name in TOO_LARGE)
