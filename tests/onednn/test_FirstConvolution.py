"""The first convolution from pixels, against that of normalised images in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from MLPipeline.EfficientNetLite_Model import SameConv2d
from MLPipeline.onednn import FirstConvolution
from MLPipeline.onednn.FirstConvolution import Int8FirstConvolution, adds_exactly
from MLPipeline.onednn.FuseConvolutions import FusedConvolution
from MLPipeline.onednn.Int8Layers import Bytes
from MLPipeline.onednn.Normalization import Normalization

pytestmark = pytest.mark.arithmetic
MEAN, STD = torch.tensor([124.0, 116.0, 104.0]).view(1, 3, 1, 1), torch.tensor([58.0, 57.0, 61.0]).view(1, 3, 1, 1)
NORMAL, SEEN = Normalization(MEAN, STD), torch.tensor([0.1, -0.2, 0.3])


def pixels(batch: int = 3, height: int = 14, width: int = 11) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, height, width, 3), generator=draw, dtype=torch.uint8).permute(0, 3, 1, 2)


def expected(fused: FusedConvolution, images: Tensor, borders: list[int]) -> Tensor:
    """Return the convolution of normalised images, whose weights have 127 steps on each side of 0."""
    weight = (fused.weight / STD).double()
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    rounded = (weight / scale).round() * scale * STD.double()
    shift = (fused.weight.double() - rounded).sum(dim=(2, 3)) @ SEEN.double()
    bias = shift if fused.bias is None else fused.bias.double() + shift
    inputs = pad((images.double() - MEAN.double()) / STD.double(), borders)
    return conv2d(inputs, rounded, bias, *fused.geometry[:1])


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)  # a weight between two steps may be rounded either way
    LAYERS = {
        "resnet": (nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False), [3, 3, 3, 3]),
        "patches": (nn.Conv2d(3, 24, 4, stride=4), [0, 0, 0, 0]),
        "oblong": (nn.Conv2d(3, 24, (3, 5), padding=(0, 2)), [2, 2, 0, 0]),
        "uneven": (SameConv2d(3, 24, 3, stride=2, bias=False), [1, 1, 0, 1]),
    }


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_it_is_that_of_normalised_images(kind: str, is_exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_exact and not adds_exactly():
        pytest.skip("this processor adds products of bytes with overflow, so the layer is in fp32 on it")
    monkeypatch.setattr(FirstConvolution, "adds_exactly", lambda: is_exact)
    layer, borders = LAYERS[kind]
    fused = FusedConvolution(layer, None, torch.float32, None)
    exact = expected(fused, pixels(), borders)
    found = Int8FirstConvolution(fused, SEEN, NORMAL, None)(pixels())
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-5)
    fused.activation = ("relu", [])
    outputs = Bytes.for_range(0.0, exact.max().item())
    stored = Int8FirstConvolution(fused, SEEN, NORMAL, outputs)(pixels())
    assert stored.dtype == torch.uint8
    assert (outputs.scale * stored.double() - exact.relu()).abs().max() < 0.51 * outputs.scale


def test_the_border_is_what_padding_means_for_normalised_images() -> None:
    """A mean between two whole numbers is rounded, which moves what is computed at the border a little."""
    normal = Normalization(MEAN + 0.3, STD)
    fused = FusedConvolution(nn.Conv2d(3, 8, 3, padding=1), None, torch.float32, None)
    grey = MEAN.to(torch.uint8).expand(1, 3, 6, 6)
    found = Int8FirstConvolution(fused, torch.zeros(3), normal, None)(grey)
    exact = conv2d(normal(grey), fused.weight, fused.bias, padding=1)
    assert (found - exact).abs().max() < 9 * 3 * 0.3 / 57 * fused.weight.abs().max()
    spread = found.amax(dim=(2, 3)) - found.amin(dim=(2, 3))
    assert spread.max() < 1e-5  # the border is the same grey


def test_asking_the_processor_draws_no_random_numbers() -> None:
    """Training draws them later, and must draw the same whether features are cached or not."""
    adds_exactly.cache_clear()
    before = torch.get_rng_state()
    adds_exactly()
    assert torch.equal(torch.get_rng_state(), before)


def test_products_of_bytes_overflow_or_not() -> None:
    """Where they do, the layer is not computed by them; this machine must know which it is."""
    ones = FusedConvolution(nn.Conv2d(3, 8, 3, bias=False), None, torch.float32, None)
    ones = ones.with_weights(torch.ones_like(ones.weight), None)
    white = torch.full((2, 9, 9, 3), 255, dtype=torch.uint8).permute(0, 3, 1, 2)
    found = Int8FirstConvolution(
        ones, torch.zeros(3), Normalization(torch.zeros_like(MEAN), torch.ones_like(STD)), None
    )
    torch.testing.assert_close(found(white), torch.full((2, 8, 7, 7), 255.0 * 27))
