"""Every network of torchvision takes one step of training; two are too large for that and only change shapes."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchvision.models import regnet

from MLPipeline.Models import build_model, find_model
from MLPipeline.Torchvision_Model import MODELS

TOO_LARGE = ("regnet_y_128gf", "vit_h_14")  # more than 600 million weights


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in TOO_LARGE])
def test_a_step_moves_every_weight(name: str) -> None:
    torch.manual_seed(0)
    size = find_model(name).min_image_size
    model = build_model(name, 3, size)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    logits = model.train()(images)
    assert logits.shape == (2, 3)
    cross_entropy(logits, torch.tensor([0, 1])).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step()
    assert not [key for key, weight in model.named_parameters() if weight.grad is None]
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    moved = model.head.last.weight.grad
    assert bool(moved.any()), "the last layer has not moved"


@pytest.mark.slow
@pytest.mark.parametrize("name", TOO_LARGE)
def test_the_giants_have_the_right_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = regnet.BlockParams.from_init_params.__func__

    def compute_for_real(*arguments: Any, **options: Any) -> regnet.BlockParams:
        with torch.device("cpu"):  # it reads numbers out of tensors, and those on "meta" have none
            return compute(*arguments, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(compute_for_real))
    with torch.device("meta"):
        model = build_model(name, 3, 224)
        images = torch.empty(2, 3, 224, 224, dtype=torch.uint8)
        assert model(images).shape == (2, 3)
        assert sum(weight.numel() for weight in model.parameters()) > 6e8
