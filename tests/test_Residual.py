"""`cnn_residual`: plain convolutions, any size from 16 pixels up, and it learns quickly from nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from MLPipeline.Config import Config
from MLPipeline.Models import build_model, find_model


def stripes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy stripes, upright or lying: (N, 3, 32, 32) uint8 and their labels (N,)."""
    labels = torch.randint(0, 2, (count,), generator=generator)
    rows = interpolate(torch.rand(count, 3, 8, 1, generator=generator), size=(32, 32))
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, rows.mT, rows) + 0.3 * torch.rand(
        count, 3, 32, 32, generator=generator
    )
    return (255 * images / 1.3).to(torch.uint8), labels


def test_the_network_is_the_one_described() -> None:
    model = build_model("cnn_residual", 10, 32)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 64, 64, 128, 256, 256, 256]
    assert {(layer.kernel_size, layer.groups) for layer in convolutions} == {((3, 3), 1)}
    assert model.stages == ["stem", "layer1", "layer2", "layer3", "pool"]
    assert sum(weight.numel() for weight in model.parameters()) == 1_646_122


@pytest.mark.parametrize("size", [16, 31, 50])
def test_it_takes_any_size(size: int) -> None:
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    assert build_model("cnn_residual", 7, size).features(images).shape == (2, 256)


def test_its_first_logits_are_small_and_it_learns_at_its_own_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, settings = build_model("cnn_residual", 2, 32), Config().resolve(find_model("cnn_residual").defaults)
    images, labels = stripes(32, generator)
    assert model(images).std() < 1
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9)
    for _ in range(12):
        images, labels = stripes(32, generator)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels = stripes(256, generator)
    with torch.no_grad():
        # 0.973 to 1.0 over five seeds and data sets with AVX-512, and at the first with AVX2; chance is 0.5.
        assert (model(images).argmax(1) == labels).float().mean() > 0.9
