"""An ONNX model in fp32 -> the same model with 8-bit weights and activations, as accurate as validation can tell.

`Quantizer` quantizes; here, the calibration method and the layers that return to fp32 are chosen by the
accuracy on validation images.
N images, S side of the input, C classes, D features.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from MLPipeline.export.LabelledPixels import LabelledPixels
from MLPipeline.export.OnnxGraph import FEATURES, quiet
from MLPipeline.export.Quantizer import METHODS, Quantizer, layers_of, run_onnx
from MLPipeline.scoring.Intervals import paired_interval

GOOD_ENOUGH = 0.005  # loss of validation accuracy that ends the search
_NUM_GROUPS, _MAX_GROUPS_IN_FP32 = 8, 3  # consecutive convolutions or products that may return to fp32 together


@dataclass(frozen=True)
class Drop:
    """How the accuracy of a quantized model differs from that of fp32, on the same images."""

    num_images: int
    fp32: float  # accuracy
    int8: float
    ci95: tuple[float, float]  # of int8 - fp32

    @property
    def is_too_large(self) -> bool:
        """Whether more than a point is lost, with an interval that excludes no loss."""
        return self.int8 - self.fp32 < -0.01 and self.ci95[1] < 0

    def to_text(self) -> str:
        """Return `86.2 -> 85.9 % of 341 images, difference -0.3 points (95 % interval -1.5 to 0.9)`."""
        low, high = (100 * bound for bound in self.ci95)
        change = f"{100 * self.fp32:.1f} -> {100 * self.int8:.1f} % of {self.num_images} images"
        return (
            f"{change}, difference {100 * (self.int8 - self.fp32):+.1f} points (95 % interval {low:.1f} to {high:.1f})"
        )


@dataclass(frozen=True)
class Quantized:
    """A quantized model and how it was found."""

    content: bytes = field(repr=False)  # of the ONNX file
    method: str  # of calibration
    num_int8: int  # convolutions and products in 8 bits
    num_fp32: int  # those that stayed in fp32
    drop: Drop  # on the validation images
    cosine: float  # mean over the validation images, of the features to those of fp32


def has_layers_for_int8(content: bytes) -> bool:
    """Return whether any layer of an ONNX model would be quantized: all but the first and the head may be."""
    return len(layers_of(onnx.load_from_string(content))) > 1


def quantize(content: bytes, calibration: np.ndarray, validation: LabelledPixels) -> Quantized:
    """Return the quantized form of an ONNX model that loses least on the validation images.

    The first calibration method comes first, and ends the search if it loses no more than `GOOD_ENOUGH`; then the other
    methods; then the best of them with one group of consecutive layers after the other in fp32.

    Args:
        content: of the ONNX file, in fp32.
        calibration: training images (N, S, S, 3) uint8.
        validation: on which the accuracy is measured.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        workshop = _Workshop(content, calibration, validation, Path(folder))
        best = workshop.quantize("minmax", [])
        for method in list(METHODS)[1:]:
            if not _is_good(best):
                best = max(best, workshop.quantize(method, []), key=_quality)
        kept: list[str] = []
        for _ in range(_MAX_GROUPS_IN_FP32):
            if _is_good(best):
                break
            trials = [(workshop.quantize(best.method, kept + group), group) for group in workshop.groups(kept)]
            found, group = max(trials, key=lambda trial: _quality(trial[0]))
            if _quality(found) <= _quality(best):
                break
            best, kept = found, kept + group
        return best


def _is_good(found: Quantized) -> bool:
    return found.drop.int8 - found.drop.fp32 >= -GOOD_ENOUGH


def _quality(found: Quantized) -> tuple[float, float]:
    return round(found.drop.int8, 3), found.cosine


def compare_accuracy(fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray) -> Drop:
    """Return how the accuracy of `int8` differs from that of `fp32`, both probabilities (N, C)."""
    first, second = (probabilities.argmax(axis=1) == labels for probabilities in (fp32, int8))
    both, only_first, only_second, neither = (
        int((one & other).sum()) for one in (first, ~first) for other in (second, ~second)
    )
    interval = paired_interval(both, only_first, only_second, neither)
    return Drop(len(labels), float(first.mean()), float(second.mean()), interval)


class _Workshop:
    """Quantizes one model again and again, and compares each result with fp32."""

    def __init__(self, content: bytes, calibration: np.ndarray, validation: LabelledPixels, folder: Path) -> None:
        self.quantizer, self.validation = Quantizer(onnx.load_from_string(content), calibration, folder), validation
        self.probabilities, self.features = run_onnx(content, validation.pixels, ["probabilities", FEATURES])

    def groups(self, kept: list[str]) -> list[list[str]]:
        """Return the layers that are in 8 bits, divided into groups of consecutive ones."""
        layers = [name for name in self.quantizer.layers[1:] if name not in kept]
        size = -(-len(layers) // _NUM_GROUPS) or 1
        return [layers[at : at + size] for at in range(0, len(layers), size)]

    def quantize(self, method: str, kept: list[str]) -> Quantized:
        """Return the model with the layers called `kept`, and those that always are, in fp32."""
        content = self.quantizer.quantize(method, kept)
        probabilities, features = run_onnx(content, self.validation.pixels, ["probabilities", FEATURES])
        drop = compare_accuracy(self.probabilities, probabilities, self.validation.labels)
        num_fp32 = 1 + len(kept)
        cosine = _mean_cosine(self.features, features)
        return Quantized(content, method, len(self.quantizer.layers) - num_fp32, num_fp32, drop, cosine)


def _mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
