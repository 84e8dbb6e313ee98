"""A frozen backbone in 8 bits: an ONNX network that lies in `model.pt` beside the weights in fp32, and runs anywhere.

onnxruntime computes it. Sums of products of 8 bits are whole numbers, so an image has the same bits in any batch; the
few layers in fp32 are computed one image at a time. OpenVINO 2026.4 needs a third less time where the processor has
VNNI instructions (51 against 32 images a second on a core for ResNet50), but answers otherwise: the features of 64
photographs by EfficientNet-Lite0 have a mean cosine to fp32 of 0.76 there, and of 0.996 here.
B images of a batch, S side of the square input, D features.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from MLPipeline.Errors import DataError
from MLPipeline.quantized.OnnxGraph import FEATURES, INPUT

TO_RUN, TO_MAKE = ("onnx", "onnxruntime"), ("onnx", "onnxscript", "onnxruntime")  # packages
_OWN_DOMAINS = ("", "ai.onnx")  # of the operators of ONNX itself


@dataclass(frozen=True)
class Shift:
    """How far the answers of a model move if its backbone is computed in fp32, measured at the end of training."""

    num_images: int  # validation images
    changed: float  # share of them with another class
    largest: float  # largest difference of a probability

    def to_text(self) -> str:
        """Return `of 341 validation images, 0.6 % had another class, and no probability differed by more than 0.12`."""
        changed, of = f"{100 * self.changed:.1f} % had another class", f"of {self.num_images:,} validation images"
        return f"{of}, {changed}, and no probability differed by more than {self.largest:.2g}"


@dataclass(frozen=True)
class Int8Network:
    """The whole backbone of a classifier in 8 bits."""

    content: bytes = field(repr=False)  # of the ONNX file
    shift: Shift | None = None  # None: not measured, for lack of validation images

    @cached_property
    def digest(self) -> str:
        """A hash of the network: its features belong to it alone."""
        return hashlib.blake2b(self.content, digest_size=16).hexdigest()

    def open(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from images (B, S, S, 3) uint8 RGB to features (B, D) float32.

        It computes on the thread that calls it, and may be called from several threads at once.

        Raises:
            DataError: the network is damaged, or is not one of ours.
        """
        import onnxruntime

        _check(self.content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has errors of its own for everything
            raise _damaged(str(error)) from error
        return lambda pixels: session.run([FEATURES], {INPUT: pixels})[0]


def _check(content: bytes) -> None:
    """Make sure that an ONNX network reads no other file and has no operators but ONNX's own.

    Raises:
        DataError: it does, or cannot be read.
    """
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # the parser's own
        raise _damaged("cannot be parsed") from error
    graph = model.graph
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise _damaged("refers to another file")
    for node in graph.node:
        kinds = {attribute.type for attribute in node.attribute}
        if node.domain not in _OWN_DOMAINS or kinds & {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
            raise _damaged(f"has an operator that is not expected, {node.op_type}")
        if any(each.t.data_location == onnx.TensorProto.EXTERNAL for each in node.attribute):
            raise _damaged("refers to another file")
    if [each.name for each in graph.input] != [INPUT] or FEATURES not in [each.name for each in graph.output]:
        raise _damaged("is not a backbone")


def _damaged(why: str) -> DataError:
    return DataError(f"the 8-bit network in the model file is damaged: {why[:200]}", "Use --precision fp32")


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Return those of `packages` that cannot be imported."""
    return [package for package in packages if not _is_installed(package)]


def are_present(packages: Sequence[str]) -> bool:
    """Return whether all `packages` are there, without importing them."""
    return all(importlib.util.find_spec(package) for package in packages)


def _is_installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True
