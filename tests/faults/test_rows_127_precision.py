"""Rows 127 and 128 of the fault matrix: 8 bits without other packages, and on machines that cannot compute them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.frozen import NumberFormat
from MLPipeline.steps import PlanInt8
from tests.support.harness import SMALL, refuse, succeed

MakeImages = Callable[..., Path]
FROZEN = [*SMALL, "--weights", "none", "--freeze", "backbone"]
INT8 = [*FROZEN, "--precision", "int8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 20, "dog": 20, "eel": 20})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run in 8 bits."""
    output = tmp_path_factory.mktemp("output")
    succeed([*INT8, "--data", data, "--output", output])
    return output


def metrics(output: Path) -> dict[str, Any]:
    return json.loads((output / "001-cnn" / "metrics.json").read_text(encoding="utf-8"))


def answers(output: Path, data: Path, *flags: str) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return what `predict` answers, by image and class, and its notes."""
    done = succeed(["predict", data, "--output", output, "--json", "--topk", "3", "-j", "1", "--device", "cpu", *flags])
    found = [json.loads(line) for line in done.out.splitlines()]
    return {each["path"]: {top["class"]: top["confidence"] for top in each["top"]} for each in found}, done.notes


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (PlanInt8, NumberFormat):
        monkeypatch.setattr(module, "can_compute_int8", lambda: False)


def test_127_int8_without_kernels(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--precision int8` where torch has no fast kernels for it: exit code 3 before an image is read."""
    without_kernels(monkeypatch)
    argv = [*INT8, "--data", data, "--output", tmp_path / "output"]
    refuse(argv, 3, "--precision int8: torch has no fast kernels for 8 bits on this processor. Leave it out")
    assert not (tmp_path / "output" / "001-cnn").exists()


def test_127_auto_without_kernels(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--precision auto` where torch has no fast kernels for 8 bits goes on in fp32."""
    monkeypatch.setattr(PlanInt8, "COST_IMAGES", 0)
    monkeypatch.setattr(PlanInt8, "COST_S", 0.0)
    monkeypatch.setattr(PlanInt8, "fast_dtypes", lambda device: [PlanInt8.torch.float32])
    without_kernels(monkeypatch)
    done = succeed([*FROZEN, "--data", data, "--output", tmp_path])
    assert metrics(tmp_path)["precision"] == {"setting": "auto", "int8": None}
    assert "8 bits" not in done.err + done.out


def test_127_int8_without_other_packages(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--precision int8` needs no package but torch: a training and `predict` work without onnx and onnxruntime."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    succeed([*INT8, "--data", data, "--output", tmp_path])
    assert metrics(tmp_path)["precision"]["int8"]["is_used"]
    assert len(answers(tmp_path, data, "--precision", "int8")[0]) == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--precision int8: is for a backbone that stays frozen"),
        (["--weights", "none", "--freeze", "conv1"], "--precision int8: is for a backbone that stays frozen"),
        (["--weights", "none", "--unfreeze-after", "1"], "--precision int8: is for a backbone that stays frozen"),
        (["--weights", "none", "--freeze", "backbone", "--find-lr"], "--precision int8: is not for --find-lr"),
    ],
    ids=str,
)
def test_127_int8_where_nothing_stays_frozen(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    """`--precision int8` for a training that changes layers of the backbone: exit code 2 before the first step."""
    refuse([*SMALL, "--precision", "int8", "--data", data, "--output", tmp_path / "output", *flags], 2, message)
    assert not (tmp_path / "output" / "001-cnn").exists()


@pytest.mark.parametrize("verb", ["audit", "tune"])
def test_127_int8_for_verbs_that_train_no_model(data: Path, tmp_path: Path, verb: str) -> None:
    """`--precision int8` where features come from a network that is not quantized: exit code 2."""
    flags = ["--model", "efficientnet_lite0"] if verb == "tune" else []
    argv = [verb, "--data", data, "--output", tmp_path / "output", "--precision", "int8", "--device", "cpu", "-j", "1"]
    refuse([*argv, *flags], 2, "--precision int8: is for a backbone that was quantized when its head was trained")


def test_128_a_model_in_8_bits_where_there_are_no_kernels(
    output: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model trained in 8 bits answers within the stated bound where it cannot be computed, and a note states it."""
    shift = metrics(output)["precision"]["int8"]["shift"]
    own, notes = answers(output, data)
    assert not any("8 bits" in line for line in notes)
    assert load_checkpoint(output / "001-cnn" / "model.pt")[0].quantized is not None
    without_kernels(monkeypatch)
    found, notes = answers(output, data)
    stated = f"of {shift['num_images']} validation images, {100 * shift['changed']:.1f} % had another class"
    assert [line for line in notes if "trained in 8 bits and cannot be computed" in line and stated in line]
    moved = [abs(found[path][name] - own[path][name]) for path in own for name in own[path]]
    assert 0 < max(moved) < shift["largest"] + 0.02
    argv = ["predict", data, "--output", output, "--precision", "int8", "--device", "cpu"]
    refuse(argv, 3, "--precision int8: torch has no fast kernels for 8 bits on this processor")


def test_128_a_model_in_8_bits_is_scored_as_it_was_trained(output: Path) -> None:
    """`evaluate` computes a model in the number format that it was trained with, and finds the accuracy of the run."""
    done = succeed(["evaluate", "--output", output, "--json", "-j", "1", "--device", "cpu"])
    found, stored = json.loads(done.out), metrics(output)["test"]
    assert (found["accuracy"], found["loss"]) == (stored["accuracy"], stored["loss"])


def test_128_int8_for_a_model_in_fp32(data: Path, tmp_path: Path) -> None:
    """`--precision int8` for a model that was not trained in it: exit code 2."""
    succeed([*FROZEN, "--data", data, "--output", tmp_path])
    argv = ["predict", data, "--output", tmp_path, "--precision", "int8", "--device", "cpu"]
    refuse(argv, 2, "--precision int8: the model was not trained in 8 bits")


def test_128_a_model_in_8_bits_is_exported_in_8_bits(output: Path) -> None:
    """`export --int8` of a model trained in 8 bits says how its answers differ from those of `predict` in 8 bits."""
    said = succeed(["export", "--int8", "--output", output]).out
    (line,) = [line for line in said.splitlines() if "of those of predict, which computes in 8 bits too" in line]
    within = float(line.split("probabilities within ")[1].split()[0])
    assert "answers on 9 test images" in line and 0 < within < 0.1
