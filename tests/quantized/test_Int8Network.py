"""A backbone in 8 bits: what it computes, alone and in company; what the model file keeps; what is not accepted."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from MLPipeline.Checkpoint import ModelCard, load_checkpoint, save_checkpoint
from MLPipeline.Errors import DataError, ResourceError, UsageError
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.frozen.NumberFormat import settle_format
from MLPipeline.quantized.Backbone import NotQuantizableError, quantize_backbone
from MLPipeline.quantized.Int8Network import Int8Network, Shift
from tests.support.small_int8 import SIZE, pixels, small_int8

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


def test_the_same_images_give_the_same_network() -> None:
    model = small_int8()
    again = quantize_backbone(model.backbone, model.mean, model.std, pixels(16))
    assert model.quantized is not None and again.network.digest == model.quantized.digest
    assert (again.num_int8, again.num_fp32) == (1, 1)


def test_a_backbone_with_a_single_layer_is_refused() -> None:
    model = small_int8()
    with pytest.raises(NotQuantizableError, match="it has a single layer"):
        quantize_backbone(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), model.mean, model.std, pixels(2))


def test_stores_of_rows_differ_by_format_and_by_calibration(tmp_path: Path) -> None:
    model = small_int8()
    folders = {FrozenStages(model, SIZE, name).store(tmp_path).folder for name in ("fp32", "bf16", "int8")}
    assert FrozenStages(model, SIZE, "auto").store(tmp_path).folder in folders  # that of int8
    model.quantized = quantize_backbone(model.backbone, model.mean, model.std, pixels(8, seed=9)).network
    assert len(folders | {FrozenStages(model, SIZE, "int8").store(tmp_path).folder}) == 4


def test_int8_without_a_network_in_8_bits_is_refused() -> None:
    model = small_int8()
    model.quantized = None
    with pytest.raises(UsageError, match="--precision int8: is for a backbone that was quantized"):
        FrozenStages(model, SIZE, "int8")


@pytest.mark.parametrize("shift", [SHIFT, None])
def test_it_comes_back_from_the_model_file(tmp_path: Path, shift: Shift | None) -> None:
    model = small_int8()
    assert model.quantized is not None
    model.quantized = Int8Network(model.quantized.content, shift)
    save_checkpoint(tmp_path / "model.pt", model, CARD)
    loaded, _ = load_checkpoint(tmp_path / "model.pt")
    assert loaded.quantized == model.quantized
    torch.load(tmp_path / "model.pt", weights_only=True)
    loaded.quantized = None
    save_checkpoint(tmp_path / "model.pt", loaded, CARD)
    assert load_checkpoint(tmp_path / "model.pt")[0].quantized is None


@pytest.mark.parametrize(
    "change",
    [
        {"network": torch.zeros(4)},
        {"network": torch.zeros(2, 2, dtype=torch.uint8)},
        {"network": b"1234"},
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


def changed(how: str) -> bytes:
    """Return the small network with something in it that is not ours."""
    network = small_int8().quantized
    assert network is not None
    model = onnx.load_from_string(network.content)
    if how == "another file":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/hostname")
    elif how == "operator":
        model.graph.node[0].domain = "com.example"
    elif how == "backbone":
        model.graph.output[0].name = "answers"
    elif how == "damaged":
        del model.graph.node[3:5]
    return b"not a network" if how == "parsed" else model.SerializeToString()


@pytest.mark.parametrize("how", ["another file", "operator", "backbone", "damaged", "parsed"])
def test_a_network_that_is_not_ours_is_refused(how: str) -> None:
    with pytest.raises(
        DataError, match=f"the 8-bit network in the model file is damaged: .*{how if how != 'damaged' else ''}"
    ):
        Int8Network(changed(how)).open()


def test_without_its_package_a_model_goes_on_in_fp32_and_says_how_far_answers_move(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = small_int8()
    assert model.quantized is not None
    with pytest.raises(ResourceError, match="--precision int8: needs onnxruntime"):
        settle_format(model, "int8")
    settle_format(model, "fp32")
    model.quantized = Int8Network(model.quantized.content, SHIFT)
    with caplog.at_level(logging.WARNING):
        settle_format(model, "auto")
    assert model.quantized is None
    assert "onnxruntime (pip install onnx onnxruntime), so it is not quantized here: of 341 " in caplog.text
    assert "0.6 % had another class, and no probability differed by more than 0.12" in caplog.text


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
