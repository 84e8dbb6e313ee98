"""The contract between images and logits: normalisation inside, two halves, frozen means frozen."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from MLPipeline.Errors import UsageError

STAGES = ["stem", "block", "pool"]


def make() -> Classifier:
    torch.manual_seed(0)
    stages = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        block=nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return Classifier(nn.Sequential(stages), nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)))


def images(number: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, 8, 8), dtype=torch.uint8, generator=generator)


def frozen_parameters(model: Classifier) -> set[str]:
    return {name.split(".")[1] for name, p in model.backbone.named_parameters("backbone") if not p.requires_grad}


def test_normalisation_is_imagenets_in_units_of_brightness() -> None:
    white = make().normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    expected = torch.tensor([(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
    assert white.dtype == torch.float32
    torch.testing.assert_close(white, expected.view(1, 3, 1, 1).expand(1, 3, 2, 2))


def test_normalisation_travels_with_the_weights() -> None:
    state = make().state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx([255 * mean for mean in IMAGENET_MEAN])
    assert state["std"].flatten().tolist() == pytest.approx([255 * std for std in IMAGENET_STD])


def test_forward_is_head_of_features() -> None:
    model = make().eval()
    features = model.features(images())
    assert features.shape == (4, 5)
    assert torch.equal(model(images()), model.head(features))
    assert model(images()).shape == (4, 3)


@pytest.mark.parametrize("until", ["none", *STAGES, "backbone"])
def test_the_frozen_and_the_trainable_part_make_the_whole(until: str) -> None:
    model = make().eval()
    whole = model(images())
    model.freeze(until)
    if until == "none":
        assert model.trainable_part() is model  # it takes images, so that normalisation stays inside
        return
    assert torch.equal(model.trainable_part()(model.frozen_features(images())), whole)


def test_the_shape_of_a_row_follows_what_is_frozen_and_the_size() -> None:
    model = make()
    for until, size, shape in [
        ("backbone", 8, (5,)),
        ("stem", 8, (4, 6, 6)),
        ("stem", 10, (4, 8, 8)),
        ("block", 8, (5, 4, 4)),
        ("stem", 8, (4, 6, 6)),
    ]:
        model.freeze(until)
        assert model.frozen_shape(size) == shape


@pytest.mark.parametrize(
    ("until", "frozen"),
    [("none", set()), ("stem", {"stem"}), ("block", {"stem", "block"}), ("backbone", {"stem", "block"})],
)
def test_freezing_goes_from_the_image_up_to_a_stage(until: str, frozen: set[str]) -> None:
    model = make()
    assert model.stages == STAGES
    model.freeze("backbone")
    model.freeze(until)  # a second call undoes the first
    assert frozen_parameters(model) == frozen
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_an_unknown_stage() -> None:
    with pytest.raises(UsageError) as caught:
        make().freeze("blok")
    assert str(caught.value) == (
        "--freeze blok: no such stage. Did you mean 'block'? Choose from: backbone, block, none, pool, stem"
    )


@pytest.mark.parametrize("until", ["none", *STAGES, "backbone"])
def test_frozen_stages_stay_in_eval_mode_whatever_train_says(until: str) -> None:
    model = make()
    model.freeze(until)
    for mode in (True, False, True):
        model.train(mode)
        number = model.num_frozen_stages
        assert not any(part.training for stage in model.backbone[:number] for part in stage.modules())
        assert all(part.training == mode for stage in model.backbone[number:] for part in stage.modules())
        assert model.head.training == mode


def test_batchnorm_statistics_of_frozen_stages_do_not_move() -> None:
    model = make()
    model.freeze("stem")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(images())
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {f"backbone.block.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_features_of_frozen_stages_are_the_same_in_training() -> None:
    model = make()
    model.freeze("backbone")
    first = model.train().frozen_features(images())
    assert torch.equal(first, model.frozen_features(images()))
    torch.testing.assert_close(first[:1], model.frozen_features(images()[:1]))  # no image sees its neighbours


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 1), (3, 3, 1, 4)])
def test_the_layout_in_memory_changes_no_bit_of_the_normalised_images(shape: tuple[int, ...]) -> None:
    model, images = make(), torch.randint(0, 256, shape, dtype=torch.uint8)
    rows_first = images.contiguous(memory_format=torch.channels_last)
    expected = (images.float() - model.mean) / model.std
    assert torch.equal(model.normalize(images), expected) and torch.equal(model.normalize(rows_first), expected)
    assert torch.equal(model.normalize(images.float()), expected)
    assert model.normalize(rows_first).is_contiguous(memory_format=torch.channels_last)
