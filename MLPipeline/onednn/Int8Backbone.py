"""A frozen backbone in 8 bits: ranges measured on training images, and the network that they give.

    network = calibrate(model.backbone, images)          # normalised images (N, 3, H, W)
    backbone = in_8_bits(model.backbone, network)        # maps such images to features (B, D)

Convolutions and linear layers are computed in 8 bits, and pass bytes to each other where nothing else reads them; all
other operations are in fp32, and so is the first layer, which costs most accuracy and little time. Features of
EfficientNet-Lite0 for 64 photographs have a mean cosine to fp32 of 0.996.
B images of a batch, D features, N images, H and W their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from MLPipeline.Errors import DataError, is_out_of_memory
from MLPipeline.onednn.FuseConvolutions import TRACE_ERRORS, FusedConvolution, can_be_traced, rewritten
from MLPipeline.onednn.Int8Layers import Bytes, Int8Convolution, Int8Linear, needs_fp32
from MLPipeline.onednn.Int8Network import TENSORS, Int8Network

_BATCH = 8
_MAX_ERROR = 0.01  # of the features of the rewritten network in fp32, relative to their length


class NotQuantizableError(Exception):
    """The text says why a backbone cannot be quantized."""


@torch.inference_mode()
def calibrate(backbone: nn.Module, images: Tensor) -> Int8Network:
    """Return what `in_8_bits` needs, measured on normalised images (N, 3, H, W); the same images give the same.

    Raises:
        NotQuantizableError: the backbone cannot be traced, or has a single layer.
    """
    try:
        graph = _in_fp32(backbone)
        exact, found = (each(images[:1]).flatten(1) for each in (backbone, graph))
    except TRACE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise NotQuantizableError(f"it cannot be traced: {_first_line(error)}") from error
    if not (exact - found).norm() <= _MAX_ERROR * exact.norm():
        raise NotQuantizableError("its convolutions cannot be rewritten")
    layers = _layers(graph)
    if not layers:
        raise NotQuantizableError("it has a single layer, which stays in fp32")
    measuring = _Measuring(graph, layers)
    for batch in images.split(_BATCH):
        measuring.run(batch)
    found = [measuring.found[node] for node in layers]
    network = Int8Network(torch.stack([each.ranges for each in found]), torch.cat([each.mean for each in found]))
    try:
        in_8_bits(backbone, network)(images[:1])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise NotQuantizableError(f"oneDNN has no kernel for it: {_first_line(error)}") from error
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class _Measuring(fx.Interpreter):
    """Runs a graph, and measures what its layers get and return."""

    def __init__(self, graph: fx.GraphModule, layers: list[fx.Node]) -> None:
        super().__init__(graph)
        self.found = {node: _Measured() for node in layers}

    def run_node(self, n: fx.Node) -> Any:
        """Return what a node returns."""
        if n not in self.found:
            return super().run_node(n)
        inputs, _ = self.fetch_args_kwargs_from_env(n)
        self.found[n].look(inputs, channel=1 if isinstance(_module(self.module, n), FusedConvolution) else -1)
        output = super().run_node(n)
        self.found[n].widen(TENSORS - 1, output)
        return output


class _Measured:
    """What was measured of a layer."""

    def __init__(self) -> None:
        self.ranges = torch.zeros(TENSORS, 2)
        self._sum, self._number = torch.zeros(()), 0

    @property
    def mean(self) -> Tensor:
        """The mean input (C,)."""
        return self._sum / self._number

    def look(self, inputs: Sequence[Tensor], channel: int) -> None:
        """Take in the inputs, of which the first has its channels in the dimension `channel`."""
        for position, each in enumerate(inputs):
            self.widen(position, each)
        rows = inputs[0].movedim(channel, -1).flatten(0, -2)
        self._sum, self._number = self._sum + rows.sum(dim=0), self._number + len(rows)

    def widen(self, position: int, values: Tensor) -> None:
        """Widen the range of the tensor number `position` to that of `values`."""
        low, high = (values.permute(0, 2, 3, 1) if values.ndim == 4 else values).aminmax()  # in the order of memory
        self.ranges[position, 0].clamp_(max=low)
        self.ranges[position, 1].clamp_(min=high)


def _in_fp32(backbone: nn.Module) -> fx.GraphModule:
    """Return a backbone as a graph; stages that cannot be traced are called as they are."""
    opaque = [stage for stage in backbone.children() if not can_be_traced(stage)]
    return rewritten(backbone, {}, torch.float32, opaque)


def _layers(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the layers that are to be computed in 8 bits, in order."""
    kinds = (FusedConvolution, nn.Linear)
    found = [node for node in graph.graph.nodes if node.op == "call_module" and isinstance(_module(graph, node), kinds)]
    return found[1:]


def _module(graph: nn.Module, node: fx.Node) -> nn.Module:
    return graph.get_submodule(str(node.target))


@torch.inference_mode()
def in_8_bits(backbone: nn.Module, network: Int8Network) -> nn.Module:
    """Return a module that computes `backbone` in 8 bits: from normalised images (B, 3, H, W) to features (B, D).

    Raises:
        DataError: the network is not one of this backbone.
    """
    graph = _in_fp32(backbone)
    layers = _layers(graph)
    widths = [_num_inputs(_module(graph, node)) for node in layers]
    if network.num_layers != len(layers) or len(network.means) != sum(widths):
        found = f"it is of {network.num_layers} layers, not of {len(layers)}"
        raise DataError(f"the 8-bit part of the model file is damaged: {found}", "Use --precision fp32")
    _Quantizer(graph, layers, network.ranges.tolist()).rewrite(network.means.split(widths))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _num_inputs(layer: nn.Module) -> int:
    if isinstance(layer, FusedConvolution):
        return layer.weight.shape[1] * layer.geometry[2]
    assert isinstance(layer, nn.Linear)
    return layer.in_features


class _Quantizer:
    """Replaces layers of a graph by those in 8 bits."""

    def __init__(self, graph: fx.GraphModule, layers: list[fx.Node], ranges: list[list[list[float]]]) -> None:
        self._graph, self._layers = graph, layers
        self._ranges = dict(zip(layers, ranges, strict=True))
        self._last_reader = {read: node for node in graph.graph.nodes for read in node.all_input_nodes}
        self._convolutions = {node for node in layers if isinstance(_module(graph, node), FusedConvolution)}
        self._give_bytes: set[fx.Node] = set()  # layers whose output is stored in 8 bits
        for node in reversed(layers):
            can_give = node in self._convolutions and not needs_fp32(_module(graph, node))
            if can_give and all(self._takes_bytes(user, node) for user in node.users):
                self._give_bytes.add(node)
        self._stored: dict[fx.Node, fx.Node] = {}  # node in fp32 -> the same as bytes

    def _takes_bytes(self, user: fx.Node, node: fx.Node) -> bool:
        """Return whether `user` takes `node` as bytes: as its input, or to add to what it gives as bytes itself."""
        return user in self._convolutions and (node not in user.args[1:] or user in self._give_bytes)

    def rewrite(self, means: tuple[Tensor, ...]) -> None:
        """Replace all layers; `means` are their mean inputs."""
        for number, (node, mean) in enumerate(zip(self._layers, means, strict=True)):
            old = _module(self._graph, node)
            assert isinstance(old, (FusedConvolution, nn.Linear))
            inputs, other, outputs = (Bytes.for_range(*each) for each in self._ranges[node])
            gives_bytes = node in self._give_bytes
            source, *added = (each for each in node.args if isinstance(each, fx.Node))
            with self._graph.graph.inserting_before(node):
                arguments = [self._as_bytes(source, inputs)]
                arguments += [self._to_overwrite(node, each, other if gives_bytes else None) for each in added]
            new: nn.Module
            if isinstance(old, FusedConvolution):
                new = Int8Convolution(old, mean, inputs, *((other, outputs) if gives_bytes else (None, None)))
            else:
                new = Int8Linear(old, mean, inputs)
            self._graph.add_module(name := f"int8_{number}", new)
            node.target, node.args = name, tuple(arguments)

    def _as_bytes(self, node: fx.Node, stored: Bytes) -> fx.Node:
        if node in self._give_bytes:
            return node
        if node not in self._stored:
            self._stored[node] = self._graph.graph.call_function(Bytes.store, (stored, node))
        return self._stored[node]

    def _to_overwrite(self, user: fx.Node, node: fx.Node, stored: Bytes | None) -> fx.Node:
        """Return what `user` may add to and overwrite in place of `node`: itself if no one reads it later."""
        if stored is not None and node not in self._give_bytes:
            return self._graph.graph.call_function(Bytes.store, (stored, node))
        is_own = node in self._convolutions  # not a view of another tensor
        if is_own and self._last_reader[node] is user and user.args[0] is not node:
            return node
        return self._graph.graph.call_method("clone", (node,), {"memory_format": torch.channels_last})
