"""Gradients in strips equal torch's own, and are used where they pay, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Models import build_model
from MLPipeline.training import DepthwiseGradient
from MLPipeline.training.DepthwiseGradient import fast_depthwise, weight_gradient

pytestmark = pytest.mark.arithmetic


def gradients(layer: nn.Module, images: Tensor, with_strips: bool) -> list[Tensor]:
    """Return the output and all gradients, of weights that differ from image to image."""
    images = images.clone().requires_grad_()
    layer.zero_grad()
    if with_strips:
        with fast_depthwise(layer):
            output = layer(images)
    else:
        output = layer(images)
    slopes = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(slopes)
    return [output.detach(), images.grad, *(each.grad for each in layer.parameters())]  # type: ignore[list-item]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the filters whose gradient is computed in strips."""
    shapes: list[tuple[int, ...]] = []

    def spied(images: Tensor, slopes: Tensor, weight: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(weight.shape))
        return weight_gradient(images, slopes, weight, *others)

    monkeypatch.setattr(DepthwiseGradient, "weight_gradient", spied)
    return shapes


@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (3, 4), (1, 9), (5, 6)], ids=str)
@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (2, 2), (1, 0), (3, 1), ((2, 1), (0, 3))], ids=str)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_gradients_are_those_of_torch(
    kernel: tuple[int, int], stride: Any, padding: Any, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, kernel, stride, padding, groups=6).to(memory_format=memory_format)
    images = torch.randn(11, 6, 14, 13).to(memory_format=memory_format)  # more than are computed at once
    for own, ours in zip(*(gradients(layer, images, each) for each in (False, True)), strict=True):
        assert torch.allclose(own, ours, rtol=1e-4, atol=1e-4 * float(own.abs().max()))


def test_a_filter_wider_than_the_images(counted: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(4, 4, 9, padding=4, groups=4, bias=False), torch.randn(2, 4, 3, 2)
    for own, ours in zip(*(gradients(layer, images, each) for each in (False, True)), strict=True):
        assert torch.allclose(own, ours, atol=1e-5)
    assert counted == [(4, 1, 9, 9)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(6, 6, 3, groups=6),
        lambda: nn.Conv2d(6, 6, 5),
        lambda: nn.Conv2d(6, 12, 5, groups=6),
        lambda: nn.Conv2d(6, 6, 5, groups=3),
        lambda: nn.Conv2d(6, 6, 5, groups=6, dilation=2),
        lambda: nn.Conv2d(6, 6, 5, groups=6, padding="same"),
        lambda: nn.Conv2d(6, 6, 5, groups=6).requires_grad_(False),
    ],
    ids=["narrow", "dense", "two filters each", "groups", "dilated", "text", "frozen"],
)
def test_other_convolutions_are_left_to_torch(make: Callable[[], nn.Module], counted: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer, images = make(), torch.randn(2, 6, 12, 12)
    wide = nn.Conv2d(6, 6, 5, groups=6)  # for its sake the block has an effect
    both = nn.ModuleList([layer, wide])
    with fast_depthwise(both):
        output = layer(images.clone().requires_grad_())
        output.sum().backward()
    assert counted == []
    assert torch.equal(output, layer(images))


def test_nothing_changes_without_gradients_and_outside_of_the_block(counted: list[tuple[int, ...]]) -> None:
    layer, images = nn.Conv2d(6, 6, 5, groups=6), torch.randn(2, 6, 12, 12)
    with fast_depthwise(layer), torch.no_grad():
        layer(images)
    with fast_depthwise(layer), torch.autocast("cpu", torch.bfloat16):
        layer(images).float().sum().backward()
    layer(images).sum().backward()
    assert counted == []


def test_every_wide_filter_of_an_efficientnet_is_computed_in_strips(counted: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    model = build_model("efficientnet_lite0", 3, 64).eval()  # no dropout
    images = torch.rand(2, 3, 64, 64) * 255
    own, ours = (gradients(model, images, each) for each in (False, True))
    assert len(counted) == sum(
        isinstance(each, nn.Conv2d) and each.groups > 1 and each.kernel_size == (5, 5) for each in model.modules()
    )
    assert len(counted) == 9
    for first, second in zip(own, ours, strict=True):
        assert torch.allclose(first, second, rtol=1e-2, atol=1e-3 * float(first.abs().max()))
