from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cosine_similarity

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import UsageError
from MLPipeline.frozen.FastForward import FastForward, forward_batch
from MLPipeline.frozen.FrozenStages import frozen_hash
from MLPipeline.Models import build_model, find_model
from MLPipeline.onednn.FuseConvolutions import FusedConvolution, fuse, mean_inputs
from MLPipeline.scoring.Explain import heat_maps
from MLPipeline.Weights import load_weights
from tests.support.paths import CLOTHING

PHOTOS = CLOTHING / "test"


def trained(name: str, size: int = 64) -> Classifier:
    """Return a model whose BatchNorm statistics are not the trivial ones it is built with."""
    torch.manual_seed(0)
    model = build_model(name, 5, size)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images(8, size))
    return model.eval()


def images(number: int, size: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (number, 3, 8, 8), generator=draw).float()
    return nn.functional.interpolate(coarse, size, mode="bilinear").to(torch.uint8)


class Branches(nn.Module):
    """What networks do around convolutions: a sum with ReLU, a sum without, a shared input, a bare convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm, self.relu, self.last = nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        both = self.relu(self.norm(self.first(inputs)) + self.second(inputs))
        halved = self.last(both)
        return halved + self.last(both + 1) * self.relu(self.last(both - 1))


class Sums(nn.Module):
    """A sum of two convolutions, and what else reads the first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.kind, self.relu, self.pool = kind, nn.ReLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, inputs: Tensor) -> Tensor:
        start = self.first(inputs)
        if self.kind == "own input":
            return self.relu(self.second(start) + start)
        if self.kind == "broadcast":
            return self.second(start) + self.third(self.pool(start))
        if self.kind == "of the images":
            return self.first(inputs) + self.third(inputs.repeat(1, 2, 1, 1)[:, :4])
        branch = self.third(start)
        view = start.flatten(2) if self.kind == "view read later" else branch.flatten(2)
        total = self.relu(self.second(branch) + start)
        if self.kind == "chain":
            return self.third(total) + self.third(branch) + total
        if self.kind == "read later":
            return self.third(total) - start
        return self.third(total).flatten(2) - view


@pytest.mark.parametrize(
    ("kind", "overwriting"),
    [
        ("block", 1),
        ("chain", 2),
        ("own input", 0),
        ("read later", 0),
        ("view read later", 0),
        ("broadcast", 1),
        ("of the images", 1),
    ],
)
def test_a_sum_overwrites_only_what_nothing_reads_later(kind: str, overwriting: int) -> None:
    torch.manual_seed(0)
    network, inputs = Sums(kind).eval(), torch.randn(2, 3, 9, 9)
    given = inputs.clone()
    with torch.inference_mode():
        fused, outputs = fuse(network, {}, torch.float32, inputs)
        convolutions = [module for module in fused.modules() if isinstance(module, FusedConvolution)]
        assert sum(module.overwrites for module in convolutions) == overwriting
        torch.testing.assert_close(outputs, network(inputs), rtol=1e-4, atol=1e-5)
        for module in convolutions:
            module.overwrites = False
        assert torch.equal(fused(inputs), outputs) and torch.equal(inputs, given)


class Untraceable(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "efficientnet_b0", "efficientnet_lite0", "efficientnet_lite2", "cnn"]
)
@pytest.mark.parametrize("size", [64, 75])
def test_fused_in_fp32_is_the_network_itself(name: str, size: int) -> None:
    model = trained(name, size)
    inputs = model.normalize(images(3, size, seed=1))
    with torch.inference_mode():
        expected = model.backbone(inputs)
        before = frozen_hash(model)
        fused, outputs = fuse(model.backbone, {}, torch.float32, inputs)
        assert torch.equal(outputs, fused(inputs))
        assert any(isinstance(module, FusedConvolution) for module in fused.modules())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
        torch.testing.assert_close(fused(inputs), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
        # Weights are laid out per shape: another batch size must not meet the first one's.
        torch.testing.assert_close(fused(inputs[:2]), fused(inputs)[:2], rtol=1e-3, atol=1e-4)
    assert frozen_hash(model) == before


def test_sums_branches_and_reused_layers_survive_fusing() -> None:
    network, inputs = Branches().eval(), torch.randn(2, 3, 9, 9)
    network.norm.running_mean = torch.randn(4)
    with torch.inference_mode():
        _, outputs = fuse(network, {}, torch.float32, inputs)
        torch.testing.assert_close(outputs, network(inputs), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_traced_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    network = Untraceable()
    with caplog.at_level(logging.INFO):
        assert fuse(network, {}, torch.float32, torch.ones(1, 3, 8, 8))[0] is network
    assert "cannot be fused" in caplog.text


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_rows_are_the_frozen_features_in_half_precision(name: str) -> None:
    model = trained(name)
    model.freeze("backbone")
    forward = FastForward(model, 64)
    rows, expected = forward(images(5, 64, seed=2)), model.frozen_features(images(5, 64, seed=2))
    assert rows.dtype == torch.float16 and rows.shape == expected.shape
    assert cosine_similarity(rows.float(), expected).min() > 0.99


def test_the_number_format_falls_back_to_fp32_where_rounding_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("resnet18")
    model.freeze("backbone")
    monkeypatch.setattr("MLPipeline.frozen.FastForward._MIN_COSINE", 0.99999999)
    inputs = images(4, 64, seed=3)
    exact = model.frozen_features(inputs)
    largest = exact.abs().max().item()
    torch.testing.assert_close(FastForward(model, 64)(inputs).float(), exact, rtol=2e-3, atol=1e-3 * largest)
    # What the user states wins: bf16 keeps 8 bits.
    stated = FastForward(model, 64, "bf16")(inputs).float()
    assert (stated - exact).abs().max() > 1e-3 * largest


def test_the_answers_are_those_of_the_model() -> None:
    model = trained("resnet18")
    expected = model(images(6, 64, seed=4)).softmax(1)
    model.freeze("backbone")
    answers = model.head(FastForward(model, 64, "fp32")(images(6, 64, seed=4)).float()).softmax(1)
    torch.testing.assert_close(answers, expected, rtol=0, atol=2e-3)


@pytest.mark.skipif(not PHOTOS.exists(), reason="the clothing photographs are not beside the project")
def test_features_of_photographs_keep_their_direction() -> None:
    model = build_model("efficientnet_lite0", 10, 200).eval()
    load_weights(model, find_model("efficientnet_lite0"), "auto")
    model.freeze("backbone")
    files = sorted(PHOTOS.glob("*/*.jpg"))[::24]
    pixels = torch.stack([torch.from_numpy(read_image(file, (200, 200)).pixels) for file in files]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        similarity = cosine_similarity(FastForward(model, 200)(pixels).float(), model.frozen_features(pixels))
    assert similarity.mean() > 0.9995 and similarity.min() > 0.999
    assert len(files) > 10


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_rounded_weights_shift_no_output(groups: int) -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(4, 8, 3, groups=groups), nn.BatchNorm2d(8)
    network = nn.Sequential(convolution, norm).eval()
    inputs = torch.rand(16, 4, 12, 12) + torch.arange(4.0).view(4, 1, 1)
    with torch.inference_mode():
        with mean_inputs(network) as means:
            expected = network(inputs)
        assert list(means) == [convolution] and torch.allclose(means[convolution], inputs.mean((0, 2, 3)))
        assert not convolution._forward_pre_hooks

        def shift(mean: Tensor | None) -> Tensor:
            fused = FusedConvolution(convolution, norm, torch.bfloat16, mean)
            outputs = conv2d(inputs, fused.weight.float(), fused.bias, groups=groups)
            return (outputs - expected).mean((0, 2, 3)).abs()

        before, after = shift(None), shift(means[convolution])
    assert before.max() > 1e-3 and after.max() < 0.2 * before.max()


@pytest.mark.parametrize(
    "call", [lambda layer, images: layer(input=images), lambda layer, images: layer(images[0])[None]]
)
def test_a_convolution_called_in_an_odd_way_has_no_mean(call: Callable[[nn.Module, Tensor], Tensor]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with mean_inputs(network) as means:
        call(network[0], torch.ones(1, 3, 8, 8))
    assert not means


def test_a_stream_keeps_the_order_takes_batches_as_needed_and_restores_the_threads() -> None:
    model = trained("resnet18")
    model.freeze("backbone")
    forward, threads = FastForward(model, 64), torch.get_num_threads()
    taken: list[int] = []

    def batches() -> Iterator[tuple[int, np.ndarray]]:
        for number in range(12):
            taken.append(number)
            yield number, images(3, 64, seed=number).permute(0, 2, 3, 1).numpy()

    stream = forward.stream(batches())
    item, rows = next(stream)
    assert item == 0 and len(taken) <= threads + 1
    torch.testing.assert_close(rows, forward(images(3, 64, seed=0)), rtol=1e-2, atol=1e-2)
    for expected, (item, rows) in enumerate(stream, start=1):
        assert item == expected
        torch.testing.assert_close(rows, forward(images(3, 64, seed=item)), rtol=1e-2, atol=1e-2)
    assert expected == 11 and torch.get_num_threads() == threads
    stream = forward.stream(batches())
    next(stream)
    stream.close()
    assert torch.get_num_threads() == threads


def test_an_only_batch_is_computed_by_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("resnet18")
    model.freeze("backbone")
    forward, pixels = FastForward(model, 64), images(3, 64).permute(0, 2, 3, 1).numpy()
    computing: list[threading.Thread] = []
    compute = forward._compute
    monkeypatch.setattr(
        forward, "_compute", lambda batch: (computing.append(threading.current_thread()), compute(batch))[1]
    )
    ((item, rows),) = forward.stream(iter([("only", pixels)]))
    assert item == "only" and computing == [threading.main_thread()]
    assert len(list(forward.stream([("first", pixels), ("second", pixels)]))) == 2
    assert threading.main_thread() not in computing[1:] and len(computing) == 3
    assert torch.equal(rows, forward(images(3, 64))) and not list(forward.stream([]))


@pytest.mark.parametrize(
    ("device", "size", "expected"),
    [("cpu", 32, 32), ("cpu", 200, 16), ("cpu", 260, 16), ("cpu", 300, 8), ("cpu", 600, 2), ("cpu", 4000, 2)]
    + [("cuda", 200, 128)],
)
def test_batches_of_small_images_are_larger_on_a_cpu(device: str, size: int, expected: int) -> None:
    assert forward_batch(torch.device(device), size) == expected


def test_a_network_that_fusing_changes_is_never_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained("resnet18")
    model.freeze("backbone")
    inputs, exact = images(4, 64, seed=3), model.frozen_features(images(4, 64, seed=3))
    padded = FusedConvolution.evenly_padded
    monkeypatch.setattr(FusedConvolution, "evenly_padded", lambda self, weight, shape: padded(self, -weight, shape))
    with caplog.at_level(logging.INFO):
        rows = FastForward(model, 64, "fp32")(inputs).float()
    assert "not used: cosine" in caplog.text
    torch.testing.assert_close(rows, exact, rtol=2e-3, atol=1e-3 * exact.abs().max().item())


def test_a_batch_that_fails_ends_the_stream_with_its_error() -> None:
    model = trained("resnet18")
    model.freeze("backbone")
    with pytest.raises(RuntimeError):
        list(FastForward(model, 64).stream([(0, np.zeros((1, 64, 64, 7), np.uint8))]))


class Standardised(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) / 10


class Aliases(nn.Module):
    """Small networks as people write them, of whose graph something may get lost."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.idle = kind, nn.Conv2d(3, 4, 3), nn.Dropout()
        self.second = nn.Conv2d(4, 4, 3, padding="same" if kind == "same" else 1, padding_mode=self.mode)
        if kind == "subclass":
            self.second = Standardised(4, 4, 3)
        if kind == "hook":
            self.second.register_forward_hook(lambda module, inputs, output: output / 10)
        self.norm = nn.BatchNorm2d(4, track_running_stats=kind != "no statistics")

    @property
    def mode(self) -> str:
        return self.kind if self.kind in ("reflect", "circular") else "zeros"

    def forward(self, inputs: Tensor) -> Tensor:
        start = self.first(inputs)
        start = self.idle(input=start) if self.kind == "by name" else self.idle(start)
        if self.kind == "in place":
            start.mul_(0.1)
        if self.kind == "alias":
            total = start
            total += self.second(start)
            return start + total
        if self.kind == "type" and isinstance(inputs, Tensor):  # it is a proxy while the network is traced
            start = start / 10
        found = self.norm(self.second(start)) if self.kind == "no statistics" else self.second(start)
        if self.kind == "weighted":
            return torch.add(found, start, alpha=0.1)
        if self.kind == "by name":
            return torch.add(found, other=start / 30)
        return found + found if self.kind == "doubled" else found


KINDS = ["same", "reflect", "circular", "subclass", "hook", "no statistics", "in place", "alias", "type", "weighted"]


@pytest.mark.parametrize("kind", [*KINDS, "by name", "doubled", "plain"])
def test_nothing_of_a_network_gets_lost(kind: str) -> None:
    """Not its scale either, which the cosine of two features does not see."""
    torch.manual_seed(0)
    backbone = nn.Sequential(Aliases(kind), nn.Flatten())
    model = Classifier(backbone, nn.LazyLinear(2)).eval()
    model.freeze("backbone")
    inputs = images(32, 32, seed=3)  # a full batch, in which a network without statistics reads all images
    with torch.inference_mode():
        exact = model.frozen_features(inputs)
    rows = FastForward(model, 32, "fp32")(inputs).float()
    assert (rows - exact).norm() < 1e-3 * exact.norm()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(inputs), inputs


class Joined(nn.Module):
    def forward(self, both: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([each.mean((2, 3)) for each in both], dim=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stages_may_pass_several_tensors(precision: str) -> None:
    model = Classifier(nn.Sequential(Two(), Joined()), nn.Linear(7, 2)).eval()
    model.freeze("backbone")
    inputs = images(5, 32, seed=3)
    with torch.inference_mode():
        exact = model.frozen_features(inputs)
    rows = FastForward(model, 32, precision)(inputs).float()
    assert (rows - exact).norm() < (1e-3 if precision == "fp32" else 0.02) * exact.norm()


def test_stages_that_pass_several_tensors_have_no_heat_map_and_are_no_place_to_freeze_at() -> None:
    model = Classifier(nn.Sequential(Two(), Joined()), nn.Linear(7, 2)).eval()
    model.freeze("backbone")
    with pytest.raises(UsageError, match="no stage of this model returns a feature map"):
        heat_maps(model, images(2, 32, seed=3))
    model.freeze("0")
    with pytest.raises(UsageError, match=r"--freeze 0: this stage passes on several tensors\. Name another stage"):
        model.frozen_shape(32)
