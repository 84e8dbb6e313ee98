"""Weights of torchvision and timm find their places in our models, and give the answers they gave there."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from MLPipeline import EfficientNet_Model, ResNet_Model
from MLPipeline.EfficientNet_Model import OTHER_EPS_IN_TIMM
from MLPipeline.Models import build_model, find_model

FROM_TORCHVISION = [*ResNet_Model.MODELS, *EfficientNet_Model.MODELS]  # for the others see test_Torchvision
QUICK = {"resnet18", "resnet50", "efficientnet_b0"}
EVERY_NETWORK = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FROM_TORCHVISION]
NUM_CLASSES = 3


@torch.no_grad()
def randomize(network: nn.Module, images: Tensor) -> nn.Module:
    """Random weights, none of them zero, and the BatchNorm statistics of `images` (B, 3, H, W), normalised.

    With BatchNorm at 0 and 1, mixed-up names could go unseen, and what a deep network answers would not depend on the
    image.
    """
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.named_parameters():
        if tensor.dim() == 1 and name.endswith("weight"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.dim() == 1 or not tensor.any():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    if not any("Norm" in type(layer).__name__ for layer in network.modules()):  # AlexNet: each layer would halve it
        for tensor in network.parameters():
            if tensor.dim() > 1:
                nn.init.kaiming_normal_(tensor)
    network.eval()
    norms = [(layer, layer.momentum) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer, _ in norms:
        layer.train().momentum = 1.0
    network(images)
    for layer, momentum in norms:
        layer.momentum = momentum
    return network.eval()


def assert_same_logits(ours: nn.Module, theirs: nn.Module, images: Tensor, normalised: Tensor) -> None:
    expected = theirs(normalised)
    assert expected.std(dim=0).max() > 1e-2  # from image to image; else anything would be close
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_every_foreign_name_has_its_place(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is needed to know its names")
    with torch.device("meta"):  # names and shapes, no memory
        ours = build_model(name, NUM_CLASSES, 64).state_dict()
        foreign = [torchvision_models.get_model(name, num_classes=NUM_CLASSES).state_dict()]
        if name not in OTHER_EPS_IN_TIMM:
            foreign.append(timm.create_model(name, num_classes=NUM_CLASSES).state_dict())
    rename = find_model(name).rename
    expected = {key: value.shape for key, value in ours.items() if key not in ("mean", "std")}
    for state in foreign:
        assert {rename(key): value.shape for key, value in state.items()} == expected
    assert [rename(key) for key in ours] == list(ours)


@pytest.mark.parametrize(
    "key", ["", "x", "head", "fc", "blocks.9.0.bn1.weight", "blocks.1.0.new.bias", "_blocks.99._bn0.bias"]
)
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "efficientnet_lite0", "cnn"])
def test_unknown_names_raise_nothing(name: str, key: str) -> None:
    assert isinstance(find_model(name).rename(key), str)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet18", "torchvision"),
        ("resnet50", "timm"),
        ("efficientnet_b0", "torchvision"),
        ("efficientnet_b0", "timm"),
        pytest.param("efficientnet_b5", "torchvision", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_foreign_weights_give_the_foreign_logits(name: str, library: str) -> None:
    if library == "timm":
        timm = pytest.importorskip("timm", reason="timm is the reference here")
        foreign = timm.create_model(name, num_classes=NUM_CLASSES)
    else:
        foreign = torchvision_models.get_model(name, num_classes=NUM_CLASSES)
    model, spec = build_model(name, NUM_CLASSES, 64).eval(), find_model(name)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    randomize(foreign, model.normalize(images))
    left_over = model.load_state_dict({spec.rename(k): v for k, v in foreign.state_dict().items()}, strict=False)
    assert (left_over.missing_keys, left_over.unexpected_keys) == (["mean", "std"], [])
    assert_same_logits(model, foreign, images, model.normalize(images))


def test_weights_come_with_the_hash_in_their_name() -> None:
    resnet50, b0 = find_model("resnet50").pretrained, find_model("efficientnet_b0").pretrained
    assert resnet50 is not None and b0 is not None
    assert (resnet50.file_name, resnet50.sha256) == ("resnet50-0676ba61.pth", "0676ba61")
    assert (b0.file_name, b0.sha256) == ("efficientnet_b0_rwightman-7f5810bc.pth", "7f5810bc")
    for name in FROM_TORCHVISION:
        pretrained = find_model(name).pretrained
        assert (
            pretrained is not None and pretrained.url == f"https://download.pytorch.org/models/{pretrained.file_name}"
        )
        assert len(pretrained.sha256) == 8 and int(pretrained.sha256, 16)
