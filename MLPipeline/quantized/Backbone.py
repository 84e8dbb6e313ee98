"""A backbone in torch -> the same in 8 bits, calibrated on training images."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from MLPipeline.quantized.Int8Network import Int8Network
from MLPipeline.quantized.OnnxGraph import FEATURES, PixelNetwork, onnx_graph, quiet, reason_of


class NotQuantizableError(Exception):
    """The text says why a backbone cannot be quantized."""


@dataclass(frozen=True)
class QuantizedBackbone:
    """A backbone in 8 bits."""

    network: Int8Network
    num_int8: int  # convolutions and products in 8 bits
    num_fp32: int  # those that stay in fp32


def quantize_backbone(backbone: nn.Module, mean: Tensor, std: Tensor, calibration: np.ndarray) -> QuantizedBackbone:
    """Return `backbone` in 8 bits; the same arguments always give the same network on a machine.

    Args:
        backbone: on the CPU, maps normalised images (B, 3, S, S) to features (B, D).
        mean: of the normalization; see `PixelNetwork`.
        std: likewise.
        calibration: training images (N, S, S, 3) uint8.

    Raises:
        NotQuantizableError: it has an operation that ONNX lacks, or a single layer, or too many weights.
    """
    from MLPipeline.quantized.Quantizer import Quantizer, layers_of  # needs the packages

    try:
        graph = onnx_graph(PixelNetwork(backbone, mean, std), calibration.shape[1], [FEATURES])
    except Exception as error:  # the exporter has errors of its own for every step
        raise NotQuantizableError(f"its operation {reason_of(error)} has no counterpart in ONNX") from error
    number = len(layers_of(graph))
    if number < 2:
        raise NotQuantizableError("it has a single layer, which stays in fp32")
    with tempfile.TemporaryDirectory() as folder, quiet():
        content = Quantizer(graph, calibration, Path(folder)).quantize()
    return QuantizedBackbone(Int8Network(content), number - 1, 1)
