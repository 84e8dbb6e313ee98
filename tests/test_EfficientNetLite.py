"""EfficientNet-Lite is the published family: TensorFlow's padding at every size, the published weights' answers."""

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
from torchvision import ops

from MLPipeline.Classifier import Classifier
from MLPipeline.EfficientNetLite_Model import SameConv2d, StochasticDepth, scaled
from MLPipeline.Models import build_model, find_model
from tests.support.paths import CLOTHING, ROOT

PHOTOGRAPHS = CLOTHING / "test"
SPECIMENS = ROOT / "Data"
NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


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


@pytest.mark.parametrize("name", NAMES)
def test_batchnorm_and_features_are_those_of_the_original(name: str) -> None:
    model = build_model(name, 5, 64)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-3, 0.01)}
    assert model.features(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 1280)
    assert model.stages == ["stem", *(f"stage{number}" for number in range(1, 8)), "top", "pool"]


def test_depth_and_width_are_scaled_but_for_the_ends() -> None:
    def outline(width: float, depth: float) -> tuple[list[int], list[int]]:
        stages = scaled(width, depth)
        return [stage.num_blocks for stage in stages], [stage.channels for stage in stages]

    assert outline(1.0, 1.0) == ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320])
    assert outline(1.0, 1.1) == ([1, 3, 3, 4, 4, 5, 1], [16, 24, 40, 80, 112, 192, 320])
    assert outline(1.1, 1.2) == ([1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352])
    assert outline(0.5, 1.0)[1][:3] == [8, 16, 24]  # 12 channels become 16, as 8 are a third less


def weight_file(name: str) -> Path:
    pretrained = find_model(name).pretrained
    assert pretrained is not None
    found = importlib.util.find_spec(pretrained.package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {pretrained.package} is not installed")
    return Path(found.origin).parent / "models" / pretrained.file_name


def pretrained_model(name: str, image_size: int) -> Classifier:
    state, rename = torch.load(weight_file(name), weights_only=True), find_model(name).rename
    model = build_model(name, 1000, image_size)
    left_over = model.load_state_dict({rename(key): value for key, value in state.items()}, strict=False)
    assert (left_over.missing_keys, left_over.unexpected_keys) == (["mean", "std"], [])
    return model.eval()


def reference_network(name: str, image_size: int) -> nn.Module:
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference implementation is not installed")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return reference.EfficientNet.from_pretrained(
            name.replace("_", "-"), weights_path=str(weight_file(name)), image_size=image_size
        ).eval()


def assert_same_answers(name: str, images: Tensor) -> None:
    """The reference pads for the one size it is built for, from (pixel - 127) / 128."""
    size = images.shape[-1]
    expected = reference_network(name, size)((images.float() - 127) / 128)
    torch.testing.assert_close(pretrained_model(name, size)(images), expected, rtol=1e-4, atol=1e-4)


def images_of(files: list[Path], size: int) -> Tensor:
    pixels = [cv2.resize(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), (size, size)) for file in files]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in pixels])


def photographs(label: str, count: int, size: int) -> Tensor:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    files = sorted((PHOTOGRAPHS / label).glob("*.jpg"))[:count]
    assert len(files) == count
    return images_of(files, size)


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_the_published_file(name: str) -> None:
    pretrained = find_model(name).pretrained
    assert pretrained is not None
    assert hashlib.sha256(weight_file(name).read_bytes()).hexdigest() == pretrained.sha256


@pytest.mark.parametrize("size", [224, 200, 193])
@torch.no_grad()
def test_answers_equal_the_reference_on_generated_images(size: int) -> None:
    coarse = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = (255 * functional.interpolate(coarse, size=size, mode="bilinear")).to(torch.uint8)
    assert_same_answers("efficientnet_lite0", images)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answers_equal_the_reference_on_specimens(name: str) -> None:
    files = [sorted((SPECIMENS / label).glob("*.jpg"))[0] for label in ("driving_license", "others")]
    assert_same_answers(name, images_of(files, int(str(find_model(name).defaults["image_size"]))))


@torch.no_grad()
def test_answers_equal_the_reference_on_photographs() -> None:
    assert_same_answers("efficientnet_lite0", photographs("shoes", 4, 224))


@torch.no_grad()
def test_photographs_of_shoes_look_like_shoes() -> None:
    # ImageNet's cowboy boot, clog, loafer, running shoe, sandal.
    footwear = torch.tensor([514, 502, 630, 770, 774])
    answers = pretrained_model("efficientnet_lite0", 224)(photographs("shoes", 16, 224)).argmax(dim=1)
    assert torch.isin(answers, footwear).sum() >= 12


def test_blocks_are_skipped_as_by_torchvisions_layer() -> None:
    inputs, ours, theirs = torch.randn(64, 3, 2, 2), StochasticDepth(0.3), ops.StochasticDepth(0.3, mode="row")
    assert str(ours) == str(theirs)  # which the name of the cache depends on
    found, expected = [], []
    for layer, outputs in ((ours, found), (theirs, expected)):
        torch.manual_seed(1)
        outputs += [layer.train()(inputs), layer.eval()(inputs)]
    assert all(map(torch.equal, found, expected)) and torch.equal(found[1], inputs)
    assert (found[0].flatten(1) == 0).all(1).sum() in range(5, 40)
