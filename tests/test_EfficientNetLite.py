"""EfficientNet-Lite0 is the published network: TensorFlow's padding at every size, the published weights' answers."""

import contextlib
import hashlib
import importlib.util
import io
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from MLPipeline.Classifier import Classifier
from MLPipeline.EfficientNetLite_Model import SameConv2d
from MLPipeline.Models import build_model, find_model
from tests.support.paths import CLOTHING

PHOTOGRAPHS = CLOTHING / "test"
SPEC = find_model("efficientnet_lite0")


def tensorflow_convolution(images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """SAME as TensorFlow documents it: output ceil(n / s), the smaller half of the padding before the image."""
    kernel = weight.shape[-1]
    size = torch.tensor(images.shape[-2:])
    output_size = torch.ceil(size / stride).int()
    total = ((output_size - 1) * stride + kernel - size).clamp(min=0)
    (top, left), (height, width) = (total // 2).tolist(), size.tolist()
    canvas = torch.zeros(*images.shape[:2], *(size + total).tolist())
    canvas[:, :, top : top + height, left : left + width] = images
    return functional.conv2d(canvas, weight, stride=stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(200, 200), (193, 193), (224, 224), (128, 128), (193, 200), (7, 8), (1, 1)])
@torch.no_grad()
def test_padding_is_tensorflows(size: tuple[int, int], kernel: int, stride: int) -> None:
    convolution = SameConv2d(2, 3, kernel, stride, bias=False)
    images = torch.randn(1, 2, *size)
    expected = tensorflow_convolution(images, convolution.weight, stride)
    assert expected.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(convolution(images), expected)


@torch.no_grad()
def test_the_odd_row_and_column_are_below_and_right() -> None:
    convolution = SameConv2d(1, 1, 3, 2, bias=False)
    convolution.weight.fill_(1)
    assert convolution(torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[9, 6], [6, 4]]


def test_batchnorm_and_features_are_those_of_the_original() -> None:
    model = build_model("efficientnet_lite0", 5, 200)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-3, 0.01)}
    assert model.features(torch.zeros(2, 3, 200, 200, dtype=torch.uint8)).shape == (2, 1280)
    assert model.stages == ["stem", *(f"stage{number}" for number in range(1, 8)), "top", "pool"]


def weight_file() -> Path:
    assert SPEC.pretrained is not None
    found = importlib.util.find_spec(SPEC.pretrained.package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {SPEC.pretrained.package} is not installed")
    return Path(found.origin).parent / "models" / SPEC.pretrained.file_name


def pretrained_model(image_size: int) -> Classifier:
    state = torch.load(weight_file(), weights_only=True)
    model = build_model("efficientnet_lite0", 1000, image_size)
    left_over = model.load_state_dict({SPEC.rename(key): value for key, value in state.items()}, strict=False)
    assert (left_over.missing_keys, left_over.unexpected_keys) == (["mean", "std"], [])
    return model.eval()


def reference_network(image_size: int) -> nn.Module:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference implementation is not installed")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return reference.EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=str(weight_file()), image_size=image_size
        ).eval()


def assert_same_answers(images: Tensor) -> None:
    """The reference pads for the one size it is built for, from (pixel - 127) / 128."""
    size = images.shape[-1]
    expected = reference_network(size)((images.float() - 127) / 128)
    torch.testing.assert_close(pretrained_model(size)(images), expected, rtol=1e-4, atol=1e-4)


def photographs(label: str, count: int, size: int) -> Tensor:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    files = sorted((PHOTOGRAPHS / label).glob("*.jpg"))[:count]
    assert len(files) == count
    pixels = [cv2.resize(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), (size, size)) for file in files]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in pixels])


def test_the_weights_are_the_published_file() -> None:
    assert SPEC.pretrained is not None
    assert hashlib.sha256(weight_file().read_bytes()).hexdigest() == SPEC.pretrained.sha256


@pytest.mark.parametrize("size", [224, 200, 193])
@torch.no_grad()
def test_answers_equal_the_reference_on_generated_images(size: int) -> None:
    coarse = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert_same_answers((255 * functional.interpolate(coarse, size=size, mode="bilinear")).to(torch.uint8))


@torch.no_grad()
def test_answers_equal_the_reference_on_photographs() -> None:
    assert_same_answers(photographs("shoes", 4, 224))


@torch.no_grad()
def test_photographs_of_shoes_look_like_shoes() -> None:
    # ImageNet's cowboy boot, clog, loafer, running shoe, sandal.
    footwear = torch.tensor([514, 502, 630, 770, 774])
    answers = pretrained_model(224)(photographs("shoes", 16, 224)).argmax(dim=1)
    assert torch.isin(answers, footwear).sum() >= 12
