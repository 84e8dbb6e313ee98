"""When a training computes its frozen part in 8 bits by itself, and what it does where that costs accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.frozen import FrozenStages
from MLPipeline.Models import build_model, find_model
from MLPipeline.steps import FitPhases, PlanInt8, Quantize, ShiftInFp32
from MLPipeline.steps.PlanInt8 import count_operations, plans_int8, seconds_saved
from MLPipeline.steps.Quantize import Check
from MLPipeline.training.Phases import resolve
from tests.support.harness import SMALL, Outcome, succeed
from tests.support.small_int8 import SIZE, small_int8

MakeImages = Callable[..., Path]
FROZEN = [*SMALL, "--weights", "none", "--freeze", "backbone"]
OPERATIONS = 9 * (3 * 16 * SIZE**2 + 16 * 32 * (SIZE // 2) ** 2)  # of the two convolutions of `cnn`, 3x3


def settings(**flags: Any) -> Config:
    config = Config(**{"model": "cnn", "image_size": SIZE, "freeze": "backbone", "device": "cpu"} | flags)
    return resolve(config, find_model("cnn"))


@pytest.fixture
def pays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 8 bits pay off for any number of images, on a processor that multiplies fp32 only."""
    monkeypatch.setattr(PlanInt8, "COST_IMAGES", 0)
    monkeypatch.setattr(PlanInt8, "COST_S", 0.0)
    monkeypatch.setattr(PlanInt8, "fast_dtypes", lambda device: [torch.float32])


def train(output: Path, data: Path, name: str) -> tuple[Outcome, dict[str, Any], Path]:
    """Return what a training prints, its entry `precision`, and its model file."""
    done = succeed([*FROZEN, "--data", data, "--output", output, "--name", name])
    (run,) = output.glob(f"*-{name}")
    return done, json.loads((run / "metrics.json").read_text(encoding="utf-8"))["precision"], run / "model.pt"


def test_the_operations_of_a_backbone_are_counted() -> None:
    assert count_operations(small_int8(), SIZE) == (OPERATIONS, 16 * SIZE**2 + 32 * (SIZE // 2) ** 2)


def test_the_seconds_saved_are_those_measured() -> None:
    found = {}
    for name in ("resnet50", "efficientnet_lite0"):
        with torch.device("meta"):
            model = build_model(name, 3, 200)
        found[name] = seconds_saved(model, 200)
    assert found == {"resnet50": pytest.approx(0.0184, rel=0.01), "efficientnet_lite0": pytest.approx(0.0023, rel=0.02)}


def test_auto_quantizes_where_the_images_earn_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlanInt8, "fast_dtypes", lambda device: [torch.float32])
    monkeypatch.setattr(PlanInt8, "COST_IMAGES", 60)
    monkeypatch.setattr(PlanInt8, "COST_S", 39.5 * seconds_saved(small_int8(), SIZE))
    model, config = small_int8(), settings()
    assert [plans_int8(config, model, number) for number in (99, 100)] == [False, True]
    with_views = settings(augment="hflip", views=3)
    assert [plans_int8(with_views, model, number) for number in (24, 25)] == [False, True]
    assert not plans_int8(replace(config, precision="fp32"), model, 100)
    assert not plans_int8(settings(freeze="none"), model, 100)
    monkeypatch.setattr(PlanInt8, "fast_dtypes", lambda device: [torch.bfloat16, torch.float32])
    assert not plans_int8(config, model, 100)


def test_int8_that_is_stated_needs_no_images_to_earn_it_back() -> None:
    assert plans_int8(settings(precision="int8"), small_int8(), 1)
    with pytest.raises(UsageError, match="is for a backbone that stays frozen"):
        plans_int8(settings(precision="int8", freeze="none"), small_int8(), 10**9)


@pytest.mark.parametrize(
    ("int8", "high", "is_safe"),
    [(0.90, 0.01, True), (0.896, 0.01, True), (0.894, 0.01, False), (0.896, -0.001, False), (0.92, 0.03, True)],
)
def test_safe_is_at_most_half_a_point_that_may_be_chance(int8: float, high: float, is_safe: bool) -> None:
    assert Check(400, 0.90, int8, (-0.02, high)).is_safe == is_safe


@pytest.mark.usefixtures("pays_off")
def test_no_features_are_computed_twice(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were compared with fp32 serve the training and the measure of the shift; no test image is compared."""
    data = make_images(tmp_path / "Data", {"cat": 40, "dog": 20})
    monkeypatch.setattr(Quantize, "MAX_COMPARED", 16)
    computed: dict[str, list[tuple[str, int, list[int]]]] = {}

    def watched(step: Any) -> Callable[..., Any]:
        def extract(model: Any, index: Any, size: int, cache: Path, precision: str, *others: Any, **more: Any) -> Any:
            dataset = genuine(model, index, size, cache, precision, *others, **more)
            splits = np.bincount(split[dataset.index.splits >= 0], minlength=3).tolist() if len(split) else []
            computed.setdefault(step.__name__.rpartition(".")[2], []).append((precision, dataset.num_computed, splits))
            return dataset

        return extract

    def known(*given: Any) -> Any:
        split[:] = given[1].splits
        return quantize(*given)

    split = np.zeros(60, np.int8)
    genuine, quantize = Quantize.extract, Quantize.quantize_frozen
    monkeypatch.setattr(Quantize, "quantize_frozen", known)
    for step in (Quantize, ShiftInFp32, FitPhases):
        monkeypatch.setattr(step, "extract", watched(step))
    _, found, _ = train(tmp_path, data, "first")
    assert found["int8"]["check"]["num_images"] == 16
    assert computed["Quantize"] == [("fp32", 16, [7, 9, 0]), ("int8", 16, [7, 9, 0])]
    assert computed["ShiftInFp32"] == [("fp32", 0, [0, 9, 0])]
    assert computed["FitPhases"] == [("auto", 60 - 16, [42, 9, 9])]


@pytest.mark.usefixtures("pays_off")
def test_auto_checks_once_and_trains_in_8_bits(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_images(tmp_path / "Data", {"cat": 20, "dog": 20, "eel": 20})
    asked = []
    monkeypatch.setattr(PlanInt8, "seconds_saved", lambda model, size: asked.append(size) or 1.0)
    done, found, model_file = train(tmp_path, data, "first")
    assert len(asked) == 1  # by the inspection and by the quantization together
    assert found["setting"] == "auto" and found["int8"]["is_used"]
    assert found["int8"]["check"]["num_images"] == 51 and found["int8"]["check"]["int8"] > 0.5
    assert found["int8"]["shift"]["num_images"] == 9
    quantized = load_checkpoint(model_file)[0].quantized
    assert quantized is not None and quantized.digest == found["int8"]["digest"]
    assert "int8     2 layers in 8 bits, calibrated on training images" in done.out
    assert "out of fold (51 images, 95 % interval of the difference" in done.out

    monkeypatch.setattr(Quantize, "calibrate", None)  # neither network nor check is computed again
    monkeypatch.setattr(Quantize, "cross_validate", None)
    with monkeypatch.context() as patch:
        patch.setattr(FrozenStages, "FastForward", None)  # nor any features, in 8 bits or in fp32
        assert train(tmp_path, data, "second")[1] == found

    monkeypatch.setattr(Quantize, "MAX_LOSS", -1.0)
    done, found, model_file = train(tmp_path, data, "third")
    assert not found["int8"]["is_used"] and found["int8"]["shift"] is None
    assert load_checkpoint(model_file)[0].quantized is None
    assert "int8     not used, it may cost accuracy: " in done.out


def test_the_network_stays_the_same_where_images_are_added(tmp_path: Path, make_images: MakeImages) -> None:
    """Up to twice as many: so only the features of the new ones are computed."""

    def digest(name: str) -> str:
        succeed([*FROZEN, "--data", data, "--output", tmp_path, "--name", name, "--precision", "int8"])
        (run,) = tmp_path.glob(f"*-{name}")
        return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["precision"]["int8"]["digest"]

    data = make_images(tmp_path / "Data", {"cat": 20, "dog": 20})
    first = digest("first")
    make_images(tmp_path / "More", {"eel": 20}).joinpath("eel").rename(data / "eel")
    assert digest("second") == first
    make_images(tmp_path / "Many", {"fox": 60}, seed=5).joinpath("fox").rename(data / "fox")
    assert digest("third") != first


def test_without_room_for_the_features_the_frozen_part_is_computed_in_fp32(
    tmp_path: Path, make_images: MakeImages
) -> None:
    """They are then computed in every epoch, by torch: a model must not be trained on one and answer by the other."""
    data = make_images(tmp_path / "Data", {"cat": 8, "dog": 8})
    done = succeed(
        [
            *FROZEN,
            "--data",
            data,
            "--output",
            tmp_path,
            "--precision",
            "int8",
            "--cache-limit",
            "0",
            "--test-fraction",
            "0",
        ]
    )
    assert (
        "the cache has no room for the features: the frozen part runs in every epoch, and not in 8 bits" in done.notes
    )
    found = json.loads((tmp_path / "001-cnn" / "metrics.json").read_text(encoding="utf-8"))["precision"]["int8"]
    assert not found["is_used"] and load_checkpoint(tmp_path / "001-cnn" / "model.pt")[0].quantized is None
