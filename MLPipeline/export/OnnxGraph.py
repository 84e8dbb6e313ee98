"""A torch network that reads raw pixels -> an ONNX graph.

torch.onnx's exporter (torch.export) builds the graph and folds BatchNorm into the convolutions. Opset 20 is read by
onnxruntime 1.17 (January 2024) and later.
B images of a batch, S side of the square input, D features.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, FEATURES = "images", "features"
OPSET = 20
_OPERATOR = re.compile(r"(?:OpOverload\(op='|torch\.ops\.)([\w.]+)")


class PixelNetwork(nn.Module):
    """`features (B, D)` float32 of `images` (B, S, S, 3) uint8 RGB: normalization, then a backbone.

    Args:
        backbone: maps normalised images (B, 3, S, S) to features.
        mean: per channel, (1, 3, 1, 1) on a scale from 0 to 255.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.backbone = simplified(backbone)
        self.register_buffer("mean", mean.detach().permute(0, 2, 3, 1).contiguous())
        self.register_buffer("std", std.detach().permute(0, 2, 3, 1).contiguous())

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, D)."""
        return self.backbone(((images.float() - self.mean) / self.std).permute(0, 3, 1, 2))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the features (B, D)."""
        return self.features(images)


def simplified(network: nn.Module) -> nn.Module:
    """Return a copy of `network` for inference that exporters trace in half the time.

    BatchNorm is folded into the convolution that precedes it in a `Sequential`, and activations return new tensors.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an option of every activation
        if isinstance(module, nn.Sequential):
            for (name, first), (next_name, second) in pairwise(list(module.named_children())):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(first, second))
                    setattr(module, next_name, nn.Identity())
    return network


def onnx_graph(network: PixelNetwork, image_size: int, outputs: Sequence[str]) -> ModelProto:
    """Return the ONNX graph that computes `network` in fp32 for any number of images at once.

    Raises:
        Exception: the exporter has errors of its own for every step; `reason_of` makes one line of them.
    """
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    for node in (*graph.graph.node, *graph.graph.input, *graph.graph.output):
        del node.metadata_props[:]  # where in torch's code each node comes from: half of the file of a small network
        node.ClearField("doc_string")
    return graph


def reason_of(error: BaseException) -> str:
    """Return the operation that has no counterpart, or else the first line of the root cause of an exporter's error."""
    texts: list[str] = []
    cause: BaseException | None = error  # from the exporter's advice to the root cause
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = next((match[1] for text in reversed(texts) if (match := _OPERATOR.search(text))), "")
    return (found or (texts[-1].strip().splitlines() or [type(error).__name__])[0])[:200]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter, which reports its progress and its optional packages on the console."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
