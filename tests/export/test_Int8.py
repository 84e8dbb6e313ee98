"""Quantization of a network made by hand: first convolution, depthwise and pointwise convolution, head."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from MLPipeline.export.Int8 import Quantized, compare_accuracy, has_layers_for_int8, quantize
from MLPipeline.export.LabelledPixels import LabelledPixels
from MLPipeline.export.Quantizer import correct_biases, mean_inputs, run_onnx

SIZE, CHANNELS = 8, 6


def network(seed: int = 0) -> onnx.ModelProto:
    """Return images (B, 8, 8, 3) uint8 -> first (fp32) -> depthwise -> pointwise -> features (B, 6) -> (B, 2)."""
    draw = np.random.default_rng(seed)
    tensors = {
        "first_w": draw.normal(size=(CHANNELS, 3, 1, 1)) / 100,
        "depthwise_w": draw.uniform(0.1, 1, size=(CHANNELS, 1, 3, 3)),
        "pointwise_w": draw.normal(size=(CHANNELS, CHANNELS, 1, 1)),
        "head_w": draw.normal(size=(CHANNELS, 2)),
    }
    tensors |= {f"{name}_b": np.full(CHANNELS, 0.1) for name in ("first", "depthwise", "pointwise")}
    layers = [helper.make_node("Cast", ["images"], ["floats"], "cast", to=TensorProto.FLOAT)]
    layers.append(helper.make_node("Transpose", ["floats"], ["planes"], "transpose", perm=[0, 3, 1, 2]))
    inside = "planes"
    for name, groups in (("first", 1), ("depthwise", CHANNELS), ("pointwise", 1)):
        pads = [1, 1, 1, 1] if name == "depthwise" else [0, 0, 0, 0]
        inputs = [inside, f"{name}_w", f"{name}_b"]
        layers.append(helper.make_node("Conv", inputs, [f"{name}_y"], name, group=groups, pads=pads))
        layers.append(helper.make_node("Relu", [f"{name}_y"], [f"{name}_z"], f"{name}_relu"))
        inside = f"{name}_z"
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    layers.append(helper.make_node("ReduceMean", [inside, "axes"], ["features"], "pool", keepdims=0))
    layers.append(helper.make_node("MatMul", ["features", "head_w"], ["logits"], "head"))
    layers.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1))
    graph = helper.make_graph(
        layers,
        "made by hand",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", CHANNELS]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()] + [axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def images(number: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    content, pixels = network().SerializeToString(), images(40)
    labels = run_onnx(content, pixels, ["probabilities"])[0].argmax(axis=1)
    return quantize(content, images(19, seed=2), LabelledPixels(pixels, labels))


def initializers(content: bytes) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer}


def test_it_answers_nearly_as_fp32(quantized: Quantized) -> None:
    assert quantized.drop.fp32 == 1.0 and quantized.drop.int8 >= 0.975
    assert quantized.cosine > 0.9995
    assert (quantized.num_int8, quantized.num_fp32, quantized.method) == (2, 1, "minmax")


def test_no_sum_of_two_products_can_overflow_16_bits(quantized: Quantized) -> None:
    """Pointwise weights have 7 bits: 2 * 255 * 64 < 2 ** 15. Depthwise ones, added up in 32 bits, keep 8."""
    found = {name: value for name, value in initializers(quantized.content).items() if value.dtype == np.int8}
    largest = {name.split("_")[0]: int(np.abs(value.astype(int)).max()) for name, value in found.items() if value.ndim}
    assert largest == {"pointwise": 64, "depthwise": 127}


def test_weights_have_a_scale_for_each_channel(quantized: Quantized) -> None:
    found = initializers(quantized.content)
    assert found["pointwise_w_scale"].shape == found["depthwise_w_scale"].shape == (CHANNELS,)


def test_the_first_convolution_and_the_head_stay_as_they_are(quantized: Quantized) -> None:
    before = {each.name: numpy_helper.to_array(each) for each in network().graph.initializer}
    found = initializers(quantized.content)
    for name in ("first_w", "first_b", "head_w"):
        assert np.array_equal(found[name], before[name]), name


def test_biases_of_layers_that_stay_in_fp32_are_not_corrected() -> None:
    model, pixels = network(), images(8)
    corrected = correct_biases(model, mean_inputs(model, pixels), {"first", "pointwise"})
    before, found = initializers(model.SerializeToString()), initializers(corrected.SerializeToString())
    assert [name for name in before if not np.array_equal(before[name], found[name])] == ["depthwise_b"]


def test_a_network_of_one_layer_has_none_to_quantize() -> None:
    model = network()
    assert has_layers_for_int8(model.SerializeToString())
    for node in [each for each in model.graph.node if each.name.startswith(("depthwise", "pointwise"))]:
        model.graph.node.remove(node)
    next(node for node in model.graph.node if node.name == "pool").input[0] = "first_z"
    assert not has_layers_for_int8(model.SerializeToString())


def test_the_bias_makes_up_for_the_mean_error_of_rounded_weights() -> None:
    model, pixels = network(), images(32)
    before = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = before["pointwise_w"]
    scale = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 64
    rounded = (np.rint(weights / scale) * scale).astype(np.float32)
    model = correct_biases(model, mean_inputs(model, pixels), {"first"})
    tensors = {each.name: each for each in model.graph.initializer}
    bias = numpy_helper.to_array(tensors["pointwise_b"])
    probe = network()
    probe.graph.output.append(helper.make_tensor_value_info("depthwise_z", TensorProto.FLOAT, None))
    mean = run_onnx(probe.SerializeToString(), pixels, ["depthwise_z"])[0].mean(axis=(0, 2, 3))
    exact, found = (w[:, :, 0, 0] @ mean + b for w, b in ((weights, before["pointwise_b"]), (rounded, bias)))
    assert np.abs(rounded[:, :, 0, 0] @ mean + before["pointwise_b"] - exact).max() > 1e-3
    assert np.abs(found - exact).max() < 1e-5


def test_the_drop_is_paired() -> None:
    """Of 200 images, 6 are lost and none is won: 3 points, with an interval that excludes no loss."""
    labels = np.zeros(200, int)
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    fp32, int8 = np.array([right] * 200), np.array([wrong] * 6 + [right] * 194)
    drop = compare_accuracy(fp32, int8, labels)
    assert (drop.fp32, drop.int8, drop.num_images) == (1.0, 0.97, 200) and drop.ci95[1] < 0
    assert drop.is_too_large and not compare_accuracy(int8, fp32, labels).is_too_large
    assert drop.to_text().startswith("100.0 -> 97.0 % of 200 images, difference -3.0 points (95 % interval -6.4 to ")


def test_a_loss_that_may_be_chance_is_no_reason_to_refuse() -> None:
    labels = np.zeros(20, int)
    fp32 = np.array([[0.9, 0.1]] * 20)
    int8 = np.array([[0.1, 0.9]] + [[0.9, 0.1]] * 19)
    drop = compare_accuracy(fp32, int8, labels)
    assert drop.int8 - drop.fp32 == pytest.approx(-0.05) and not drop.is_too_large
