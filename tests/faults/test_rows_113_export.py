"""Rows 53 and 113 to 116 of the fault matrix: exports that must not come to be."""

from __future__ import annotations

import resource
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Checkpoint import ModelCard, load_checkpoint, save_checkpoint
from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.commands import ExportModel
from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.export.Network import ExportedNetwork
from MLPipeline.Models import all_models
from tests.support.harness import SMALL, refuse, succeed
from tests.support.trained_run import Trained


class BesselStage(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images).mean(dim=(2, 3))


def build_bessel(num_classes: int, image_size: int) -> Classifier:
    return Classifier(nn.Sequential(OrderedDict(waves=BesselStage())), nn.Linear(3, num_classes))


class Poisoned(nn.Module):
    """Six layers that pass on a signal beside a huge constant: in 8 bits of one common scale, the signal is lost."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 2, 1)
        first.weight.data.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1))
        first.bias.data.copy_(torch.tensor([0.0, 1e5]))  # type: ignore[union-attr]
        layers = [nn.Conv2d(2, 2, 1) for _ in range(6)]
        for layer in layers:
            layer.weight.data.copy_(torch.eye(2).view(2, 2, 1, 1))
            layer.bias.data.zero_()  # type: ignore[union-attr]
        self.layers = nn.Sequential(first, *layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean(dim=(2, 3))


def build_poisoned(num_classes: int, image_size: int) -> Classifier:
    head = nn.Linear(2, 2)
    head.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    head.bias.data.zero_()
    return Classifier(nn.Sequential(OrderedDict(poisoned=Poisoned())), head)


def exports(output: Path) -> list[str]:
    folder = output / "export"
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"] if folder.is_dir() else []


def test_53_a_missing_package_is_named_with_the_pip_line(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its packages, export ends with exit code 3 and the line that installs them, before it writes anything."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    outcome = refuse(
        ["export", "--output", trained.output],
        3,
        "export --format onnx: needs onnxscript. Run pip install onnx onnxscript onnxruntime",
    )
    assert outcome.out == "" and exports(trained.output) == []


def test_113_a_model_that_answers_differently_is_not_exported(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported model whose answers differ from those of predict: exit code 5, and no file is left."""
    as_it_is = ExportedNetwork.__init__

    def with_another_temperature(self: ExportedNetwork, model: Classifier, card: ModelCard) -> None:
        as_it_is(self, model, card)
        self.temperature *= 1.5

    monkeypatch.setattr(ExportedNetwork, "__init__", with_another_temperature)
    refuse(["export", "--output", trained.output], 5, "the onnx model differs from predict: same answers on", "within")
    assert exports(trained.output) == []


def test_114_a_quantized_model_that_loses_accuracy_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 that costs more than a point of validation accuracy: exit code 5 with the figures, and no file is left.

    Also if only the library that the file is for computes it less accurately.
    """
    draw = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 30), ("test", 4)):
        for name, low in (("bright", 160), ("dark", 30)):
            (tmp_path / "Data" / split / name).mkdir(parents=True)
            for image in range(number):
                pixels = draw.integers(low, low + 60, (16, 16, 3), np.uint8)
                (tmp_path / "Data" / split / name / f"{image}.png").write_bytes(
                    cv2.imencode(".png", pixels)[1].tobytes()
                )
    succeed([*SMALL, "--data", tmp_path / "Data", "--output", tmp_path])
    with monkeypatch.context() as patched:
        network = lambda pixels: {"probabilities": np.tile([1.0, 0.0], (len(pixels), 1))}  # noqa: E731
        patched.setattr(ExportModel, "open_network", lambda file: (network, {}))
        argv = ["export", "--int8", "--format", "openvino", "--output", tmp_path]
        refuse(argv, 5, "--int8: costs validation accuracy with openvino on this processor: 100.0 -> 50.0 % of 60")
    monkeypatch.setitem(all_models(), "poisoned", ModelSpec(build=build_poisoned, source="made up"))
    card = ModelCard("poisoned", ("bright", "dark"), 16, {"kind": "none", "source": "", "sha256": ""})
    save_checkpoint(tmp_path / "001-cnn" / "model.pt", build_poisoned(2, 16), card)
    argv = ["export", "--int8", "--output", tmp_path]
    refuse(argv, 5, "--int8: costs validation accuracy: 100.0 -> 50.0 % of 60 images, difference -50.0 points")
    assert exports(tmp_path) == []


def test_115_an_operation_that_onnx_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a layer that ONNX has not: exit code 2, and the error names the operation."""
    monkeypatch.setitem(all_models(), "bessel", ModelSpec(build=build_bessel, source="made up"))
    card = ModelCard("bessel", ("cat", "dog"), 8, {"kind": "none", "source": "", "sha256": ""})
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "model.pt", build_bessel(2, 8), card)
    load_checkpoint(tmp_path / "run" / "model.pt")
    argv = ["export", "--run", tmp_path / "run", "--output", tmp_path]
    refuse(argv, 2, "bessel has an operation that cannot be exported: prims.bessel_j0. Replace")
    assert exports(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("format_name", ["onnx", "pt2"])
def test_116_a_full_disk_leaves_nothing_half_written(trained: Trained, format_name: str) -> None:
    """A disk that is full during the export: exit code 3 with the path, and nothing half-written is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        refuse(["export", "--format", format_name, "--output", trained.output], 3, "/model.", ": cannot be written (")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exports(trained.output) == []
