"""Rows 53 and 113 to 116 of the fault matrix: exports that must not come to be."""

from __future__ import annotations

import resource
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Checkpoint import ModelCard, load_checkpoint, save_checkpoint
from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.export.Network import ExportedNetwork
from MLPipeline.Models import all_models
from tests.support.harness import refuse
from tests.support.trained_run import Trained


class BesselStage(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images).mean(dim=(2, 3))


def build_bessel(num_classes: int, image_size: int) -> Classifier:
    return Classifier(nn.Sequential(OrderedDict(waves=BesselStage())), nn.Linear(3, num_classes))


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
def test_116_a_full_disk_leaves_nothing_half_written(trained: Trained) -> None:
    """A disk that is full during the export: exit code 3 with the path, and nothing half-written is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        refuse(["export", "--output", trained.output], 3, "model.onnx: cannot be written (File too large)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exports(trained.output) == []
