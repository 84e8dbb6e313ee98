"""Layers in 8 bits against the same arithmetic in whole numbers and double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from MLPipeline.onednn.FuseConvolutions import FusedConvolution
from MLPipeline.onednn.Int8Layers import Bytes, Int8Convolution, Int8Linear, Int8MaxPool

pytestmark = pytest.mark.arithmetic
INPUTS, OTHER = Bytes(0.02, 93), Bytes(0.03, 120)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return bytes (B, C, H, W) in the memory format of images."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8).to(memory_format=torch.channels_last)


def numbers(images: Tensor, stored: Bytes) -> Tensor:
    """Return what bytes stand for."""
    return stored.scale * (images.double() - stored.zero)


def convolution(seed: int = 0, **settings: Any) -> FusedConvolution:
    torch.manual_seed(seed)
    return FusedConvolution(nn.Conv2d(**settings), None, torch.float32, None)


def rounded(fused: FusedConvolution) -> Tensor:
    """Return the weights in double precision as they are rounded: to 64 steps, 127 in depthwise convolutions."""
    steps = 127 if fused.geometry[2] > 1 and fused.weight.shape[1] == 1 else 64
    scale = (fused.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / steps).double()
    return (fused.weight.double() / scale).round() * scale


def expected(fused: FusedConvolution, images: Tensor, mean: Tensor, other: Tensor | None = None) -> Tensor:
    stride, dilation, groups = fused.geometry
    weight = rounded(fused)
    found = conv2d(numbers(images, INPUTS), weight, None, stride, fused.padding, dilation, groups)
    lost = (fused.weight.double() - weight).sum(dim=(2, 3)).view(groups, -1, fused.weight.shape[1])
    shift = (lost * mean.double().view(groups, 1, -1)).sum(dim=2).flatten()
    found += ((0 if fused.bias is None else fused.bias.double()) + shift).view(1, -1, 1, 1)
    return found if other is None else found + numbers(other, OTHER)


KINDS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3 stride": {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 24},
    "depthwise 5x5": {"kernel_size": 5, "padding": 2, "groups": 24, "stride": 2},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 4},
}


@pytest.mark.parametrize("batch", [8, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_is_that_of_rounded_weights(kind: str, batch: int) -> None:
    fused = convolution(in_channels=24, out_channels=24, **KINDS[kind])
    images, mean = drawn(batch, 24, 13, 11), torch.rand(24)
    exact = expected(fused, images, mean)
    found = Int8Convolution(fused, mean, INPUTS, None, None)(images)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-5)
    outputs = Bytes.for_range(exact.min().item(), exact.max().item())
    stored = Int8Convolution(fused, mean, INPUTS, OTHER, outputs)(images)
    assert stored.dtype == torch.uint8 and (numbers(stored, outputs) - exact).abs().max() < 0.51 * outputs.scale


@pytest.mark.parametrize(
    ("name", "scalars", "function"),
    [
        ("relu", [], torch.relu),
        ("hardtanh", [0.0, 6.0], nn.ReLU6()),
        ("swish", [], nn.SiLU()),
        ("sigmoid", [], torch.sigmoid),
    ],
)
def test_activations(name: str, scalars: list[float], function: Any) -> None:
    fused = convolution(in_channels=16, out_channels=8, kernel_size=1)
    fused.activation = (name, scalars)
    images, mean = drawn(2, 16, 9, 9), torch.zeros(16)
    found = Int8Convolution(fused, mean, INPUTS, None, None)(images)
    torch.testing.assert_close(found, function(expected(fused, images, mean)).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_sum_overwrites_what_it_adds_to(activation: str | None) -> None:
    fused = convolution(in_channels=16, out_channels=8, kernel_size=3, padding=1)
    fused.activation = (activation, [])
    images, other, mean = drawn(3, 16, 9, 9), drawn(3, 8, 9, 9, seed=1), torch.rand(16)
    exact = expected(fused, images, mean, other)
    exact = exact.relu() if activation else exact
    outputs = Bytes.for_range(exact.min().item(), exact.max().item())
    in_fp32 = Int8Convolution(fused, mean, INPUTS, None, None)(images, numbers(other, OTHER).float())
    torch.testing.assert_close(in_fp32, exact.float(), rtol=1e-5, atol=1e-5)
    stored = Int8Convolution(fused, mean, INPUTS, OTHER, outputs)(images, other)
    assert (numbers(stored, outputs) - exact).abs().max() < 0.51 * outputs.scale
    assert torch.equal(stored, other)


@pytest.mark.parametrize("groups", [1, 32])
def test_the_largest_sums_do_not_overflow(groups: int) -> None:
    """Without VNNI, oneDNN adds two products in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 would not."""
    fused = convolution(in_channels=32, out_channels=32, kernel_size=3, groups=groups, bias=False)
    fused.weight = torch.ones_like(fused.weight)
    images = torch.full((1, 32, 5, 5), 255, dtype=torch.uint8).to(memory_format=torch.channels_last)
    found = Int8Convolution(fused, torch.zeros(32), Bytes(1.0, 0), None, None)(images)
    torch.testing.assert_close(found, torch.full_like(found, 255.0 * 9 * 32 / groups))


def test_the_padding_of_efficientnet_lite_is_on_the_right_side() -> None:
    from MLPipeline.EfficientNetLite_Model import SameConv2d

    torch.manual_seed(0)
    layer = SameConv2d(8, 8, 3, stride=2, groups=8, bias=False)
    fused, images = FusedConvolution(layer, None, torch.float32, None), drawn(2, 8, 10, 11)
    found = Int8Convolution(fused, torch.zeros(8), INPUTS, None, None)(images)
    layer.weight.data = rounded(fused).float()
    with torch.inference_mode():
        torch.testing.assert_close(found, layer(numbers(images, INPUTS).float()), rtol=1e-4, atol=1e-5)


def test_a_linear_layer_is_that_of_rounded_weights() -> None:
    torch.manual_seed(0)
    layer, mean, rows = nn.Linear(40, 24), torch.rand(40), drawn(3, 1, 7, 40)[:, 0]
    scale = layer.weight.abs().amax(dim=1, keepdim=True).double() / 64
    weight = (layer.weight.double() / scale).round() * scale
    exact = numbers(rows, INPUTS) @ weight.T + layer.bias + (layer.weight - weight) @ mean.double()
    found = Int8Linear(layer, mean, INPUTS)(rows.contiguous())
    torch.testing.assert_close(found, exact.float().detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.MaxPool2d((3, 2), (1, 2), ceil_mode=True), nn.MaxPool2d(2, 1, 0, 2)],
)
def test_the_largest_byte_is_that_of_the_largest_number(pool: nn.MaxPool2d) -> None:
    images = drawn(3, 20, 13, 11)
    found = Int8MaxPool(pool)(images)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.float(), pool(images.float()))


def test_the_mean_output_is_that_of_fp32() -> None:
    """For an input that is its mean everywhere, rounding the weights changes nothing."""
    fused, mean = convolution(in_channels=16, out_channels=8, kernel_size=1), torch.randint(0, 256, (16,)).float()
    images = mean.to(torch.uint8).view(1, 16, 1, 1).expand(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    exact = conv2d(images.float(), fused.weight, fused.bias)
    found = [Int8Convolution(fused, each, Bytes(1.0, 0), None, None)(images) for each in (mean, torch.zeros(16))]
    errors = [(each - exact).abs().max().item() for each in found]
    assert errors[0] < 1e-3 < 0.1 < errors[1]


@pytest.mark.parametrize(
    ("low", "high", "stored"),
    [(0.0, 6.0, (6 / 255, 0)), (-1.0, 1.0, (2 / 255, 128)), (2.0, 5.1, (0.02, 0)), (-5.1, -2.0, (0.02, 255))],
)
def test_ranges_have_zero_among_their_steps(low: float, high: float, stored: tuple[float, int]) -> None:
    found = Bytes.for_range(low, high)
    assert found.scale == pytest.approx(stored[0]) and found.zero == stored[1]


def test_numbers_are_stored_as_the_nearest_byte() -> None:
    values = torch.tensor([-9.0, -1.0, -0.011, 0.0, 0.009, 0.011, 1.0, 1.5499, 99.0]).view(1, 9, 1, 1)
    values = values.expand(2, 9, 3, 3).contiguous(memory_format=torch.channels_last)
    found = Bytes(0.02, 100).store(values)
    assert found.dtype == torch.uint8 and found.stride() == values.stride()
    assert found[1, :, 2, 0].tolist() == [0, 50, 99, 100, 100, 101, 150, 177, 255]
    assert Bytes.for_range(0.0, 0.0).store(torch.zeros(1, 1, 1, 1)).item() == 0
