"""A model in 8 bits: its features, alone and in company; what the model file keeps; machines without the kernels."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from MLPipeline.Checkpoint import ModelCard, load_checkpoint, save_checkpoint
from MLPipeline.Errors import DataError, ResourceError, UsageError
from MLPipeline.frozen import NumberFormat
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.frozen.NumberFormat import settle_format
from MLPipeline.onednn.Int8Network import Shift, can_compute_int8
from tests.support.small_int8 import SIZE, calibrated, pixels, small_int8

CARD = ModelCard("cnn", ("cat", "dog", "eel"), SIZE, {"kind": "none", "source": "", "sha256": ""})
SHIFT = Shift(341, 0.006, 0.12)


def rows(forward: FastForward, images: np.ndarray, size: int) -> np.ndarray:
    """Return the rows of `images`, passed in batches of `size`."""
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    return np.concatenate([forward(torch.from_numpy(part).permute(0, 3, 1, 2)).numpy() for part in parts])


def test_it_computes_nearly_the_features_in_fp32() -> None:
    model, images = small_int8(), pixels(32, seed=1)
    exact, found = (
        torch.from_numpy(rows(FastForward(model, SIZE, name), images, 8)).float() for name in ("fp32", "int8")
    )
    assert not torch.equal(exact, found)
    assert cosine_similarity(exact, found).min() > 0.999


def test_an_image_has_the_same_bits_in_any_company() -> None:
    forward, images = FastForward(small_int8(), SIZE), pixels(11, seed=2)
    expected = rows(forward, images, 8)
    for size in (1, 3, 8, 11):
        assert np.array_equal(rows(forward, images, size), expected), size
    alone = [forward.alone(torch.from_numpy(image[None]).permute(0, 3, 1, 2)).numpy() for image in images]
    assert np.array_equal(np.concatenate(alone), expected)
    batches = ((start, images[start : start + 4]) for start in range(0, 11, 4))
    assert np.array_equal(np.concatenate([part.numpy() for _, part in forward.stream(batches)]), expected)


def test_auto_and_int8_use_it_and_other_formats_do_not() -> None:
    model, images = small_int8(), pixels(4, seed=3)
    found = {name: rows(FastForward(model, SIZE, name), images, 8) for name in ("auto", "int8", "fp32")}
    assert np.array_equal(found["auto"], found["int8"]) and not np.array_equal(found["auto"], found["fp32"])
    model.quantized = None
    assert np.array_equal(rows(FastForward(model, SIZE, "fp32"), images, 8), found["fp32"])


def test_stores_of_rows_differ_by_format_and_by_calibration(tmp_path: Path) -> None:
    model = small_int8()
    folders = {FrozenStages(model, SIZE, name).store(tmp_path).folder for name in ("fp32", "bf16", "int8")}
    assert FrozenStages(model, SIZE, "auto").store(tmp_path).folder in folders  # that of int8
    assert len(folders) == 3
    model.quantized = calibrated(model, pixels(8, seed=9))
    assert len(folders | {FrozenStages(model, SIZE, "int8").store(tmp_path).folder}) == 4


@pytest.mark.parametrize(("multiplies_bf16", "number"), [(False, 1), (True, 2)])
def test_without_other_fast_formats_auto_is_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multiplies_bf16: bool, number: int
) -> None:
    monkeypatch.setattr("MLPipeline.Device._cpu_multiplies_bf16", lambda: multiplies_bf16)
    monkeypatch.setattr("MLPipeline.Device._cpu_multiplies_fp16", lambda: False)
    model = small_int8()
    model.quantized = None
    assert len({FrozenStages(model, SIZE, name).store(tmp_path).folder for name in ("auto", "fp32")}) == number


def test_int8_without_a_network_in_8_bits_is_refused() -> None:
    model = small_int8()
    model.quantized = None
    with pytest.raises(UsageError, match="--precision int8: is for a backbone that was quantized"):
        FrozenStages(model, SIZE, "int8")


@pytest.mark.parametrize("shift", [SHIFT, None])
def test_it_comes_back_from_the_model_file(tmp_path: Path, shift: Shift | None) -> None:
    model = small_int8()
    assert model.quantized is not None
    model.quantized = replace(model.quantized, shift=shift)
    save_checkpoint(tmp_path / "model.pt", model, CARD)
    loaded, _ = load_checkpoint(tmp_path / "model.pt")
    loaded.freeze("backbone")
    assert loaded.quantized is not None and loaded.quantized.shift == shift
    assert loaded.quantized.digest == model.quantized.digest
    images = pixels(3)
    found, expected = (rows(FastForward(each, SIZE, "int8"), images, 3) for each in (loaded, model))
    assert np.array_equal(found, expected)
    torch.load(tmp_path / "model.pt", weights_only=True)
    loaded.quantized = None
    save_checkpoint(tmp_path / "model.pt", loaded, CARD)
    assert load_checkpoint(tmp_path / "model.pt")[0].quantized is None


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": torch.zeros(4)},
        {"ranges": torch.zeros(1, 3, 2, dtype=torch.float64)},
        {"means": torch.zeros(2, 2)},
        {"means": b"1234"},
        {"shift": {"num_images": 0, "changed": 0.1, "largest": 0.1}},
        {"shift": {"num_images": 5, "changed": float("nan"), "largest": 0.1}},
        {"shift": {"num_images": 5}},
        {"more": 1},
    ],
    ids=str,
)
def test_an_entry_of_the_model_file_that_makes_no_sense(tmp_path: Path, change: dict[str, object]) -> None:
    save_checkpoint(tmp_path / "model.pt", small_int8(), CARD)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["int8"] |= change
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(DataError, match="its entry int8 is "):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "change", [{"ranges": torch.full((1, 3, 2), torch.nan)}, {"means": torch.full((16,), torch.inf)}]
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save_checkpoint(tmp_path / "model.pt", small_int8(), CARD)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["int8"] |= change
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(DataError, match="damaged: (NaN|an infinite number) in (ranges|means)"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_model_in_8_bits_of_an_earlier_version_is_computed_in_fp32_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path / "model.pt", small_int8(), CARD)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["int8"] = {"network": torch.zeros(9, dtype=torch.uint8), "shift": asdict(SHIFT)}
    torch.save(content, tmp_path / "model.pt")
    loaded, _ = load_checkpoint(tmp_path / "model.pt")
    assert loaded.quantized is None
    assert "was trained in 8 bits by an earlier version, and is not quantized here: of 341 validation" in caplog.text


def test_without_kernels_a_model_goes_on_in_fp32_and_says_how_far_answers_move(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(NumberFormat, "can_compute_int8", lambda: False)
    model = small_int8()
    assert model.quantized is not None
    with pytest.raises(ResourceError, match="--precision int8: torch has no fast kernels for 8 bits on this processor"):
        settle_format(model, "int8")
    settle_format(model, "fp32")
    model.quantized = replace(model.quantized, shift=SHIFT)
    with caplog.at_level(logging.WARNING):
        settle_format(model, "auto")
    assert model.quantized is None
    assert "torch has no fast kernels for them on this processor, so it is not quantized here: of 341 " in caplog.text
    assert "0.6 % had another class, and no probability differed by more than 0.12" in caplog.text


@pytest.mark.parametrize(
    ("machine", "capability", "is_fast"),
    [("x86_64", "AVX2", True), ("AMD64", "AVX512", True), ("x86_64", "DEFAULT", False), ("aarch64", "AVX2", False)],
)
def test_processors_with_kernels(monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, is_fast: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert can_compute_int8() == is_fast


def test_int8_for_a_model_that_was_not_trained_in_it_is_refused() -> None:
    model = small_int8()
    model.quantized = None
    settle_format(model, "auto")
    with pytest.raises(UsageError, match="--precision int8: the model was not trained in 8 bits"):
        settle_format(model, "int8")


def test_it_is_not_used_once_layers_of_the_backbone_are_trained() -> None:
    model = small_int8()
    model.freeze(model.stages[0])
    images = pixels(2)
    found, exact = (rows(FastForward(model, SIZE, name), images, 2) for name in ("auto", "fp32"))
    assert np.array_equal(found, exact)
