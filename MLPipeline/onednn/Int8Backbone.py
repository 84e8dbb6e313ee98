"""A frozen backbone in 8 bits: ranges measured on training images, and the network that they give.

    network = calibrate(model.backbone, normalization, images)        # images (N, 3, H, W) uint8
    backbone = in_8_bits(model.backbone, normalization, network)      # maps such images to features (B, D)

Convolutions and linear layers are computed in 8 bits, and pass bytes to each other, through max-pooling too, where
nothing else reads them; all other operations are in fp32. A first layer that does not read the images themselves is in
fp32, too: rounding its input costs most accuracy. Features of EfficientNet-Lite0 for 64 photographs have a mean cosine
to fp32 of 0.996.
B images of a batch, D features, N images, H and W their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from MLPipeline.Errors import DataError, is_out_of_memory
from MLPipeline.onednn.FirstConvolution import Int8FirstConvolution
from MLPipeline.onednn.FuseConvolutions import TRACE_ERRORS, FusedConvolution, can_be_traced, may_overwrite, rewritten
from MLPipeline.onednn.Int8Layers import Bytes, Int8Convolution, Int8Linear, Int8MaxPool, needs_fp32
from MLPipeline.onednn.Int8Network import TENSORS, Int8Network
from MLPipeline.onednn.Normalization import Normalization

_BATCH = 8
_MAX_ERROR = 0.01  # of the features of the rewritten network in fp32, relative to their length


class NotQuantizableError(Exception):
    """The text says why a backbone cannot be quantized."""


@torch.inference_mode()
def calibrate(backbone: nn.Module, normalization: Normalization, images: Tensor) -> Int8Network:
    """Return what `in_8_bits` needs, measured on images (N, 3, H, W) uint8; the same images give the same.

    Raises:
        NotQuantizableError: the backbone cannot be traced, or has no layer that can be computed in 8 bits.
    """
    first = normalization(images[:1])
    try:
        graph = _in_fp32(backbone)
        exact, found = (each(first).flatten(1) for each in (backbone, graph))
    except TRACE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise NotQuantizableError(f"it cannot be traced: {_first_line(error)}") from error
    if not (exact - found).norm() <= _MAX_ERROR * exact.norm():
        raise NotQuantizableError("its convolutions cannot be rewritten")
    layers = _layers(graph)
    if not layers:
        raise NotQuantizableError("it has no layer that can be computed in 8 bits")
    measuring = _Measuring(graph, layers)
    for batch in images.split(_BATCH):
        measuring.run(normalization(batch))
    found = [measuring.found[node] for node in layers]
    network = Int8Network(torch.stack([each.ranges for each in found]), torch.cat([each.mean for each in found]))
    try:
        in_8_bits(backbone, normalization, network)(images[:1].repeat(2, 1, 1, 1))  # a sum may be that of one row only
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
    return found if found and _reads_images(graph, found[0]) else found[1:]


def _reads_images(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a layer is a convolution of the images, which nothing else reads."""
    layer, inputs = _module(graph, node), node.all_input_nodes
    is_plain = isinstance(layer, FusedConvolution) and layer.geometry[2] == 1 and not needs_fp32(layer)
    is_alone = len(node.args) == len(inputs) == 1  # they may also be what is added
    return is_plain and is_alone and inputs[0].op == "placeholder" and len(inputs[0].users) == 1


def _module(graph: nn.Module, node: fx.Node) -> nn.Module:
    return graph.get_submodule(str(node.target))


@torch.inference_mode()
def in_8_bits(backbone: nn.Module, normalization: Normalization, network: Int8Network) -> nn.Module:
    """Return a module that computes `backbone` in 8 bits: from images (B, 3, H, W) uint8 to features (B, D).

    Raises:
        DataError: the network is not one of this backbone.
    """
    graph = _in_fp32(backbone)
    layers = _layers(graph)
    widths = [_num_inputs(_module(graph, node)) for node in layers]
    if network.num_layers != len(layers) or len(network.means) != sum(widths):
        found = f"it is of {network.num_layers} layers, not of {len(layers)}"
        raise DataError(f"the 8-bit part of the model file is damaged: {found}", "Use --precision fp32")
    _Quantizer(graph, layers, network.ranges.tolist()).rewrite(network.means.split(widths), normalization)
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
        self._overwriting = {node for node in layers if any(may_overwrite(graph, node, each) for each in node.args[1:])}
        self._convolutions = {node for node in layers if isinstance(_module(graph, node), FusedConvolution)}
        self._pools = [node for node in graph.graph.nodes if self._is_pool(node)]
        self._given: dict[fx.Node, Bytes] = {}  # nodes that give bytes, and how these are stored
        for node in reversed(graph.graph.nodes):
            origin = self._origin(node)
            can_give = origin in self._convolutions and not needs_fp32(_module(graph, origin))
            if can_give and all(self._takes_bytes(user, node) for user in node.users):
                self._given[node] = Bytes.for_range(*self._ranges[origin][TENSORS - 1])
        for pool in self._pools:
            if pool.args[0] not in self._given:
                self._given.pop(pool, None)
        self._stored: dict[fx.Node, fx.Node] = {}  # node in fp32 -> the same as bytes

    def _is_pool(self, node: fx.Node) -> bool:
        module = _module(self._graph, node) if node.op == "call_module" else None
        return isinstance(module, nn.MaxPool2d) and not module.return_indices and len(node.args) == 1

    def _origin(self, node: fx.Node) -> fx.Node:
        """Return the node whose output is pooled to that of `node`; itself if it is no pooling."""
        while node in self._pools:
            (node,) = node.all_input_nodes
        return node

    def _takes_bytes(self, user: fx.Node, node: fx.Node) -> bool:
        """Return whether `user` takes `node` as bytes: as its input, or to add to what it gives as bytes itself."""
        if user in self._pools:
            return user in self._given
        return user in self._convolutions and (node not in user.args[1:] or user in self._given)

    def rewrite(self, means: tuple[Tensor, ...], normalization: Normalization) -> None:
        """Replace all layers, of whose inputs `means` are the means; the graph then takes images uint8."""
        (images,) = (node for node in self._graph.graph.nodes if node.op == "placeholder")
        if not _reads_images(self._graph, self._layers[0]):
            self._normalize(images, normalization)
        for number, (node, mean) in enumerate(zip(self._layers, means, strict=True)):
            old = _module(self._graph, node)
            new: nn.Module
            if images in node.args:
                assert isinstance(old, FusedConvolution)
                new = Int8FirstConvolution(old, mean, normalization, self._given.get(node))
            else:
                new = self._in_8_bits(node, old, mean)
            self._graph.add_module(name := f"int8_{number}", new)
            node.target = name
        for pool in self._pools:
            if pool in self._given:
                module = _module(self._graph, pool)
                assert isinstance(module, nn.MaxPool2d)
                self._graph.add_module(name := f"{pool.name}_of_bytes", Int8MaxPool(module))
                pool.target = name

    def _normalize(self, images: fx.Node, normalization: Normalization) -> None:
        """Normalise the images before anything reads them."""
        self._graph.add_module("normalize_images", normalization)
        with self._graph.graph.inserting_after(images):
            normalized = self._graph.graph.call_module("normalize_images", (images,))
        images.replace_all_uses_with(normalized, delete_user_cb=lambda user: user is not normalized)

    def _in_8_bits(self, node: fx.Node, old: nn.Module, mean: Tensor) -> nn.Module:
        """Return the layer of a node in 8 bits; the node is given its inputs as bytes."""
        assert isinstance(old, (FusedConvolution, nn.Linear))
        source, *added = (each for each in node.args if isinstance(each, fx.Node))
        of_source, of_added, _ = (Bytes.for_range(*each) for each in self._ranges[node])
        inputs, outputs = self._given.get(source, of_source), self._given.get(node)
        other = self._given.get(added[0], of_added) if added and outputs else None
        with self._graph.graph.inserting_before(node):
            arguments = [self._as_bytes(source, inputs)]
            arguments += [self._to_overwrite(node, each, other) for each in added]
        node.args = tuple(arguments)
        if isinstance(old, FusedConvolution):
            return Int8Convolution(old, mean, inputs, other, outputs)
        return Int8Linear(old, mean, inputs)

    def _as_bytes(self, node: fx.Node, stored: Bytes) -> fx.Node:
        if node in self._given:
            return node
        if node not in self._stored:
            self._stored[node] = self._graph.graph.call_function(Bytes.store, (stored, node))
        return self._stored[node]

    def _to_overwrite(self, user: fx.Node, node: fx.Node, stored: Bytes | None) -> fx.Node:
        """Return what `user` may add to and overwrite in place of `node`: itself if no one reads it later."""
        if stored is not None and node not in self._given:
            return self._graph.graph.call_function(Bytes.store, (stored, node))
        if user in self._overwriting:
            return node
        return self._graph.graph.call_method("clone", (node,), {"memory_format": torch.channels_last})
