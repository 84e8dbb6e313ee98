"""Heat maps: where a network looks is known, or is found out by covering what it is said to look at."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from torch import Tensor, nn
from torch.nn.functional import interpolate

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import UsageError
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.Models import build_model
from MLPipeline.scoring.Explain import _colours, draw_heat, explain_images, heat_maps, overlay
from tests.support.harness import succeed
from tests.support.paths import CLOTHING

SIZE = 64


class Corners(nn.Module):
    """Features (B, 2) of activations (B, 3, h, w): how red the top left is, and how blue the bottom right."""

    def forward(self, activations: Tensor) -> Tensor:
        return torch.stack([activations[:, 0, :2, :2].sum((1, 2)), activations[:, 2, -2:, -2:].sum((1, 2))], dim=1)


def looks_at_corners() -> Classifier:
    """Return a network whose class 0 stands for a red top left corner, class 1 for a blue bottom right one."""
    backbone = OrderedDict(shrink=nn.AvgPool2d(8), corners=Corners())
    model = Classifier(nn.Sequential(backbone), nn.Linear(2, 2, bias=False), mean=(0, 0, 0), std=(1, 1, 1))
    model.head.weight.data = torch.eye(2)
    return model


def coloured() -> Tensor:
    """Return a black image, red in its top left eighth and blue in its bottom right one."""
    image = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    image[:, 0, :8, :8] = 255
    image[:, 2, -8:, -8:] = 200
    return image


def test_the_heat_lies_where_the_network_looks() -> None:
    model, images = looks_at_corners(), coloured().repeat(2, 1, 1, 1)
    red, blue = heat_maps(model, images, torch.tensor([0, 1]))
    assert red.shape == (SIZE, SIZE) and red.dtype == torch.float32
    for heat, (row, column) in ((red, (0, 0)), (blue, (SIZE - 1, SIZE - 1))):
        assert heat.max() == 1 and heat.min() == 0
        place = divmod(int(heat.argmax()), SIZE)
        assert abs(place[0] - row) < 8 and abs(place[1] - column) < 8
        assert heat[20:44].max() < 0.01
    assert torch.equal(heat_maps(model, coloured())[0], red)  # by default of the class answered


def test_where_nothing_speaks_for_a_class_it_is_cold() -> None:
    black = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    assert torch.equal(heat_maps(looks_at_corners(), black), torch.zeros(1, SIZE, SIZE))


@pytest.mark.parametrize(
    ("name", "stage"),
    [("cnn", "conv2"), ("resnet18", "layer4"), ("efficientnet_lite0", "top"), ("efficientnet_b0", "top")],
)
def test_every_family_is_explained_by_its_last_map(name: str, stage: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 3, SIZE).eval()
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    maps: list[Tensor] = []
    hook = getattr(model.backbone, stage).register_forward_hook(lambda *call: maps.append(call[2].float()))
    heat = heat_maps(model, images, torch.tensor([1, 1]))
    hook.remove()
    assert heat.shape == (2, SIZE, SIZE) and bool(heat.isfinite().all())
    # Word for word: section 3, equations 1 and 2.
    number = model.stages.index(stage) + 1
    activations = maps[0].requires_grad_()
    logits = model.head(model.backbone[number:](activations.clone()))
    slopes = torch.autograd.grad(logits[:, 1].sum(), activations)[0].mean((2, 3), keepdim=True)
    expected = (slopes * activations).sum(1, keepdim=True).relu()
    expected = interpolate(expected, SIZE, mode="bicubic").clamp_min(0)[:, 0].detach()
    highest = expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(heat, expected / highest.where(highest > 0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_activations_are_computed_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, found = build_model("resnet18", 3, SIZE).eval(), []
    model.backbone.layer1.register_forward_hook(lambda *call: found.append(call[2].dtype))
    heat_maps(model, torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8), precision=precision)
    assert found == [dtype]


def test_images_so_small_that_the_last_map_is_a_point_have_a_map_of_an_earlier_stage() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    heat = heat_maps(build_model("efficientnet_lite0", 3, 32), images)
    # A map without any positive evidence is all zero, which is about one in three with random weights.
    assert heat.max() == 1 and heat.std(dim=(1, 2)).max() > 0.01


def test_a_network_without_maps_is_refused() -> None:
    model = Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten())), nn.Linear(12, 2))
    with pytest.raises(UsageError, match="no stage of this model returns a feature map"):
        heat_maps(model, torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("freeze", ["none", "stage3", "backbone"])
def test_the_model_comes_out_as_it_went_in(freeze: str) -> None:
    torch.manual_seed(0)
    model = build_model("efficientnet_lite0", 3, SIZE).train()
    model.freeze(freeze)
    model.backbone.stage5.eval()
    model.head[1].weight.grad = torch.ones_like(model.head[1].weight)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trained = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    before = images.clone()
    first, second = heat_maps(model, images), heat_maps(model, images)
    assert torch.equal(first, second)  # no dropout, no statistics of the batch
    assert [module.training for module in model.modules()] == modes
    after = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    assert all(one[0] is two[0] and one[1] is two[1] for one, two in zip(trained, after, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(images, before) and torch.is_grad_enabled()


def test_the_colours_are_those_of_inferno() -> None:
    inferno = 255 * colormaps["inferno"](np.linspace(0.25, 1, 256))[:, :3]
    assert np.abs(_colours() - inferno).max() < 5


def test_in_the_picture_colour_is_heat() -> None:
    image = np.full((4, 6, 3), (200, 30, 30), np.uint8)
    heat = np.tile(np.linspace(0, 1, 6, dtype=np.float32), (4, 1))
    drawn = overlay(image, heat)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert len(set(drawn[0, 0].tolist())) == 1  # cold: grey, though the image is red
    spread = drawn[0].max(1).astype(int) - drawn[0].min(1)
    assert (spread[1:] > 20).all()
    brightness = drawn[0].astype(float).mean(1)
    assert (np.diff(brightness[1:]) > 0).all()  # ever lighter, so that it shows without colours too


def test_a_file_that_has_gone_has_no_picture(make_images, tmp_path: Path) -> None:
    index = scan_folders(make_images(tmp_path, {"cat": 10, "dog": 2}))
    (tmp_path / "cat" / "003.png").unlink()
    model = looks_at_corners()
    pictures = explain_images(model, index, np.array([9, 3, 1]), SIZE)
    assert set(pictures) == {1, 9}
    pixels = read_image(index.path(9), (SIZE, SIZE)).pixels
    assert np.array_equal(pictures[9], draw_heat(model, pixels[None])[0])


def hottest_fifth(heat: Tensor) -> Tensor:
    """Return the 20 % of pixels (B, H, W) bool that are hottest."""
    limits = heat.flatten(1).quantile(0.8, dim=1)
    return heat > limits[:, None, None]


@pytest.mark.slow
@pytest.mark.skipif(not CLOTHING.is_dir(), reason=f"no photographs in {CLOTHING}")
def test_covering_what_is_hot_costs_more_than_covering_anything_else(tmp_path: Path) -> None:
    """Deletion, as the issue asks: grey in the hottest fifth takes 0.29 of the probability, in random blobs 0.17.

    With a head trained on all 3,068 images: 0.38 and 0.14.
    """
    for split, number in (("train", 24), ("validation", 4), ("test", 8)):
        for folder in (CLOTHING / split).iterdir():
            (tmp_path / "Data" / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:number]:
                (tmp_path / "Data" / split / folder.name / file.name).symlink_to(file)
    where = ["--data", tmp_path / "Data", "--output", tmp_path / "output", "--follow-links", "-j", "1"]
    succeed(["--model", "efficientnet_lite0", *where])
    model, card = load_checkpoint(tmp_path / "output" / "001-efficientnet_lite0" / "model.pt")
    files = sorted((tmp_path / "Data" / "test").glob("*/*"))
    size = (card.image_size, card.image_size)
    images = torch.from_numpy(np.stack([read_image(file, size).pixels for file in files])).permute(0, 3, 1, 2)
    draw = torch.Generator().manual_seed(0)
    drops: dict[str, list[Tensor]] = {"hot": [], "random": []}
    for batch in images.split(8):
        with torch.inference_mode():
            before = model(batch).softmax(1)
        answers = before.argmax(1, keepdim=True)
        blobs = interpolate(torch.rand(len(batch), 1, 7, 7, generator=draw), size, mode="bicubic")[:, 0]
        grey = batch.float().mean((2, 3), keepdim=True).to(torch.uint8)
        for kind, heat in (("hot", heat_maps(model, batch, answers[:, 0])), ("random", blobs)):
            with torch.inference_mode():
                after = model(torch.where(hottest_fifth(heat)[:, None], grey, batch)).softmax(1)
            drops[kind].append((before - after).gather(1, answers)[:, 0])
    hot, random = (torch.cat(each) for each in drops.values())
    assert hot.mean() > 1.4 * random.mean() > 0, (
        f"{hot.mean():.3f} by the hottest fifth, {random.mean():.3f} by another"
    )
    assert (hot > random).double().mean() > 0.6
