"""Every network of torchvision has torchvision's tensors; one of each family takes a step of training."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_Torchvision import ONE_OF_EACH
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.models import regnet

from MLPipeline.Models import build_model, find_model
from MLPipeline.Torchvision_Model import MODELS
from tests.support.quick_init import quick_init

NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def _quick_to_build(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compute = regnet.BlockParams.from_init_params.__func__

    def compute_with_numbers(*arguments: Any, **options: Any) -> regnet.BlockParams:
        with torch.device("cpu"):  # it reads numbers out of tensors, and those on "meta" have none
            return compute(*arguments, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(compute_with_numbers))
    with quick_init():
        yield


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_reaches_every_weight(name: str) -> None:
    torch.manual_seed(0)
    size = find_model(name).min_image_size
    model = build_model(name, NUM_CLASSES, size)
    logits = model.train()(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    assert logits.shape == (2, NUM_CLASSES)
    cross_entropy(logits, torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not [key for key, weight in model.named_parameters() if weight.grad is None]
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    assert bool(model.head.last.weight.grad.any()), "the last layer has not moved"


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_torchvision_has_its_place(name: str) -> None:
    rename, size = find_model(name).rename, 224 if name == "vit_h_14" else find_model(name).min_image_size
    with torch.device("meta"):  # names and shapes, no memory: the largest has 645 million weights
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # else torchvision warns
        theirs = models.get_model(name, num_classes=NUM_CLASSES, **options).state_dict()
        ours = build_model(name, NUM_CLASSES, size).state_dict()
    places = {rename(key): tensor.shape for key, tensor in theirs.items() if rename(key)}
    expected = {key: tensor.shape for key, tensor in ours.items() if key not in ("mean", "std")}
    assert places.keys() == expected.keys()
    assert {key for key in places if places[key] != expected[key]} <= {"backbone.encoder.position.position"}
