"""Whole backbones in 8 bits: what they compute, whatever their branches and sums, and what cannot be quantized."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from MLPipeline.Errors import DataError
from MLPipeline.Models import build_model
from MLPipeline.onednn.FirstConvolution import Int8FirstConvolution
from MLPipeline.onednn.Int8Backbone import NotQuantizableError, calibrate, in_8_bits
from MLPipeline.onednn.Int8Layers import Int8Convolution, Int8Linear, Int8MaxPool
from MLPipeline.onednn.Int8Network import Int8Network
from MLPipeline.onednn.Normalization import Normalization

pytestmark = pytest.mark.arithmetic
NORMAL = Normalization(torch.tensor([130.0, 120.0, 110.0]).view(1, 3, 1, 1), torch.full((1, 3, 1, 1), 50.0))


def images(number: int, size: int = 16, seed: int = 0) -> Tensor:
    """Return images (number, 3, size, size) uint8 of blots."""
    draw = torch.Generator().manual_seed(seed)
    blots = interpolate(torch.randn(number, 3, 4, 4, generator=draw), size, mode="bilinear")
    return (128 + 50 * blots).clamp(0, 255).to(torch.uint8)


class Sums(nn.Module):
    """What would go wrong if a sum overwrote what is read later, or what it reads itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.kind, self.relu, self.pool, self.gate = kind, nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()

    def forward(self, inputs: Tensor) -> Tensor:
        start = self.relu(self.first(inputs))
        middle = self.second(start)
        if self.kind == "pools":
            return self.fourth(self.pool(self.pool(self.second(self.pool(start)))))
        if self.kind == "pools and fp32":
            pooled = self.pool(self.pool(middle))
            return self.fourth(pooled) + self.third(pooled) * middle.mean()
        if self.kind == "sum of pools":
            pooled = self.pool(middle)
            return self.fourth(self.relu(self.third(pooled) + pooled)) + self.second(pooled)
        if self.kind == "block":
            return self.fourth(self.relu(self.third(middle) + middle))
        if self.kind == "own input":
            return self.fourth(self.third(middle) + middle) + self.third(start)
        if self.kind == "read later":
            total = self.relu(self.third(middle) + middle)
            return self.fourth(total) * middle.mean() + self.fourth(middle)
        if self.kind == "of fp32":
            return self.fourth(self.relu(self.third(middle) + start))
        if self.kind == "gate":
            return self.fourth(self.gate(self.third(middle)))
        if self.kind.startswith("view"):
            return self._with_a_view(start, middle)
        return self.fourth(self.pool(self.third(middle) + middle)) + self.pool(start)

    def _with_a_view(self, start: Tensor, middle: Tensor) -> Tensor:
        if self.kind == "view read later":
            view = middle.flatten(2)
            return (self.third(start) + middle).flatten(2) - view
        return self.fourth(self.third(middle) + start.flatten(2).unflatten(2, (16, 16))) + start


KINDS = ["block", "own input", "read later", "view read later", "of fp32", "view", "gate", "pooled", "pools"]


@pytest.mark.parametrize("kind", [*KINDS, "pools and fp32", "sum of pools"])
def test_no_sum_overwrites_what_is_still_needed(kind: str) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(Sums(kind), nn.Flatten()).eval()
    calibrated = calibrate(network, NORMAL, images(16))
    found, inputs = in_8_bits(network, NORMAL, calibrated), images(4, seed=1)
    with torch.inference_mode():
        exact = network(NORMAL(inputs))
        assert (found(inputs) - exact).norm() < 0.03 * exact.norm()
        assert torch.equal(found(inputs), found(inputs))


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet18", 20), ("efficientnet_lite0", 49), ("efficientnet_b0", 81), ("convnext_tiny", 58)]
)
def test_features_are_nearly_those_in_fp32(name: str, layers: int) -> None:
    torch.manual_seed(0)
    model = build_model(name, 3, 64)
    with torch.no_grad():  # so that its BatchNorm knows what it gets
        for seed in range(3):
            model.train()(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
            model(images(8, 64, seed))
    backbone, before = model.eval().backbone, copy.deepcopy(model.backbone.state_dict())
    calibrated = calibrate(backbone, model.normalization, images(32, 64))
    assert calibrated.num_layers == layers
    found, inputs = in_8_bits(backbone, model.normalization, calibrated), images(9, 64, seed=5)
    kinds = (Int8FirstConvolution, Int8Convolution, Int8Linear)
    num_int8 = sum(isinstance(module, kinds) for _, module in found.named_children())
    with torch.inference_mode():
        rows, exact = found(inputs), backbone(model.normalize(inputs))
        assert num_int8 == layers and not torch.equal(rows, exact)
        assert cosine_similarity(rows, exact).min() > 0.97
        alone = torch.cat([found(each[None]) for each in inputs])
        assert torch.equal(alone, rows)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_the_same_images_give_the_same_network() -> None:
    network = nn.Sequential(Sums("block"), nn.Flatten()).eval()
    first, again, other = (calibrate(network, NORMAL, images(16, seed=seed)) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest


def test_what_is_measured_are_ranges_and_means() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False), nn.Flatten())
    network[0].weight.data = torch.eye(3).view(3, 3, 1, 1)
    network[2].weight.data = torch.tensor([[1.0, 0, 0], [0, -2, 0]]).view(2, 3, 1, 1)
    inputs = NORMAL(images(20))
    passed = inputs.relu()
    found = calibrate(network.eval(), NORMAL, images(20))
    torch.testing.assert_close(found.means, torch.cat([each.mean(dim=(0, 2, 3)) for each in (inputs, passed)]))
    low, high = -2 * passed[:, 1].max(), passed[:, 0].max()
    assert found.ranges.shape == (2, 3, 2)
    expected = torch.tensor([[inputs.min(), inputs.max()], [0, 0], [0, passed.max()]])
    torch.testing.assert_close(found.ranges[0], expected)
    torch.testing.assert_close(found.ranges[1], torch.tensor([[0, passed.max()], [0, 0], [low, high]]))


def test_bytes_pass_through_pooling_and_only_where_all_that_follow_take_them() -> None:
    def passed(kind: str) -> tuple[int, int, int]:
        """Return how many poolings are of bytes, how many are not, and how often numbers are stored as bytes."""
        network = nn.Sequential(Sums(kind), nn.Flatten()).eval()
        found = in_8_bits(network, NORMAL, calibrate(network, NORMAL, images(8)))
        called = [type(found.get_submodule(str(n.target))) for n in found.graph.nodes if n.op == "call_module"]
        stored = sum(node.op == "call_function" and "store" in str(node.target) for node in found.graph.nodes)
        return called.count(Int8MaxPool), called.count(nn.MaxPool2d), stored

    assert passed("pools") == (3, 0, 0)
    assert passed("pools and fp32") == (0, 2, 1)
    assert passed("sum of pools") == (1, 0, 0)
    assert passed("pooled") == (1, 1, 1)


class Untraceable(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > -1e9 else -inputs


def test_a_stage_that_cannot_be_traced_is_computed_as_it_is() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Untraceable(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten())
    found = in_8_bits(network, NORMAL, calibrate(network, NORMAL, images(16)))
    with torch.inference_mode():
        exact = network(NORMAL(images(4)))
        assert 0 < (found(images(4)) - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Flatten()),
        nn.Sequential(Untraceable(), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 6, 1, groups=3), nn.Flatten()),
    ],
    ids=["its layer does not read the images", "none", "depthwise"],
)
def test_a_backbone_without_layers_for_8_bits_is_refused(network: nn.Module) -> None:
    with pytest.raises(NotQuantizableError, match="it has no layer that can be computed in 8 bits"):
        calibrate(network, NORMAL, images(2))


def test_a_first_layer_that_does_not_read_the_images_is_in_fp32() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten()).eval()
    calibrated = calibrate(network, NORMAL, images(16))
    assert calibrated.num_layers == 1
    with torch.inference_mode():
        found, exact = in_8_bits(network, NORMAL, calibrated)(images(4)), network(NORMAL(images(4)))
    assert 0 < (found - exact).norm() < 0.03 * exact.norm()


def test_a_layer_that_onednn_has_no_kernel_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Int8Convolution, images: Tensor) -> Tensor:
        raise RuntimeError("could not create a primitive\nhere")

    monkeypatch.setattr(Int8Convolution, "forward", refuse)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten())
    with pytest.raises(NotQuantizableError, match="oneDNN has no kernel for it: could not create a primitive$"):
        calibrate(network, NORMAL, images(4))


def test_the_network_of_another_model_is_refused() -> None:
    network = nn.Sequential(Sums("block"), nn.Flatten()).eval()
    found = calibrate(network, NORMAL, images(8))
    with pytest.raises(DataError, match="the 8-bit part of the model file is damaged: it is of 4 layers, not of 20"):
        in_8_bits(build_model("resnet18", 3, 32).backbone, NORMAL, found)
    shorter = Int8Network(found.ranges, found.means[1:])
    with pytest.raises(DataError, match="damaged"):
        in_8_bits(network, NORMAL, shorter)


class Sum(nn.Module):
    """A sum whose other side is no output of a layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.added = nn.Parameter(torch.randn(1, 3, 16, 16))
        self.kind, self.pool = kind, nn.AdaptiveAvgPool2d(2)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kind == "of the images":
            return self.pool(self.second(self.first(inputs) + inputs)).flatten(1)
        return self.pool(self.second(self.first(inputs)) + self.added).flatten(1)


def test_the_first_layer_may_be_added_to_the_images() -> None:
    network, inputs = Sum("of the images").eval(), images(5, 16)
    quantized = in_8_bits(network, NORMAL, calibrate(network, NORMAL, inputs))
    with torch.inference_mode():
        assert cosine_similarity(quantized(inputs), network(NORMAL(inputs))).min() > 0.97


def test_a_sum_with_one_row_for_all_images_is_refused() -> None:
    """OneDNN's kernels in 8 bits add only tensors of one size; with a single image, these are."""
    with pytest.raises(NotQuantizableError, match="no kernel"):
        calibrate(Sum("of a parameter").eval(), NORMAL, images(5, 16))
