"""Layers with 8-bit weights and activations, by oneDNN's kernels that `torch.compile` calls for quantized networks.

Activations are unsigned, `scale * (byte - zero)`; weights are signed, with a scale per channel. Sums of products are
whole numbers, so an image has the same bits in any batch. Measured on one core with AVX-512 and VNNI, images of 200
pixels per second: ResNet50 69 and EfficientNet-Lite0 275; in fp32 20 and 139.

Weights have 7 bits: without VNNI instructions, sums of two products of 8 bits overflow 16 bits, and the same network
would answer differently on other processors. Depthwise convolutions, which are added up in 32 bits, keep 8, and so does
the first convolution, which is computed in fp32 on such processors: with 7 bits, the worst of 64 features of
EfficientNet-Lite0 has a cosine to fp32 of 0.93, with 8 bits 0.985.
B images of a batch, C channels, H and W their size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from MLPipeline.onednn.FuseConvolutions import FusedConvolution

_STEPS, _EXACT_STEPS = 64, 127  # from 0 to the largest weight of a channel
_SEPARATE = {"sigmoid"}  # activations that the kernels in 8 bits lack


class Bytes(NamedTuple):
    """How numbers are stored in 8 bits: `scale * (byte - zero)`."""

    scale: float = 1.0
    zero: int = 0

    @classmethod
    def for_range(cls, low: float, high: float) -> Bytes:
        """Return the finest steps that reach from `low` to `high`, and have 0 among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, torch.finfo(torch.float32).tiny)
        return cls(scale, round(-low / scale))

    def store(self, numbers: Tensor) -> Tensor:
        """Return float32 `numbers` as bytes, in the same memory format."""
        steps = torch.add(torch.tensor(self.zero + 0.5), numbers, alpha=1 / self.scale).clamp_(0, 255)
        return torch.from_numpy(steps.numpy().astype(np.uint8))  # torch's own conversion takes three times as long


class _Weights:
    """Weights (out, in / groups, ...) as int8 with a scale (out,), and the bias that makes up for rounding them.

    The mean error that rounding causes is added to the bias. Source: M. Nagel et al., Data-Free Quantization Through
    Weight Equalization and Bias Correction, arXiv:1906.04721, section 4.2.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, mean: Tensor, groups: int, steps: int = _STEPS) -> None:
        rows = weight.detach().flatten(1)
        self.scale = rows.abs().amax(dim=1).div(steps).clamp_min(torch.finfo(torch.float32).tiny)
        rounded = rows.div(self.scale[:, None]).round_().clamp_(-steps, steps)
        error = (rows - rounded * self.scale[:, None]).unflatten(1, (weight.shape[1], -1)).sum(dim=2)
        shift = (error.unflatten(0, (groups, -1)) @ mean.view(groups, -1, 1)).flatten()
        self.bias = shift if bias is None else bias.detach() + shift
        self.bytes = rounded.to(torch.int8).view(weight.shape)
        self.zero = torch.zeros(len(rows), dtype=torch.int32)


def needs_fp32(layer: nn.Module) -> bool:
    """Return whether a layer's output cannot be stored in 8 bits, since its activation is computed afterwards."""
    return isinstance(layer, FusedConvolution) and layer.activation[0] in _SEPARATE


class Int8Convolution(nn.Module):
    """`activation(convolution(images) + other)` in 8 bits.

    Args:
        fused: the same in fp32.
        mean: the mean input (C,).
        inputs: how the input is stored.
        other: how what is added is stored; None: it is float32.
        outputs: how the output is to be stored; None: it is float32.
        is_first: whether it is computed only where products of 8 bits are added up exactly.
    """

    def __init__(
        self,
        fused: FusedConvolution,
        mean: Tensor,
        inputs: Bytes,
        other: Bytes | None,
        outputs: Bytes | None,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        self._fused = [fused]  # in a list, since its weights are not part of this module
        groups = fused.geometry[2]
        is_exact = is_first or (groups > 1 and fused.weight.shape[1] == 1)
        self._weights = _Weights(fused.weight, fused.bias, mean, groups, _EXACT_STEPS if is_exact else _STEPS)
        self._inputs, self._other, self._outputs = inputs, other or Bytes(), outputs or Bytes()
        self._dtype = torch.float32 if outputs is None else torch.uint8
        name, self._scalars = fused.activation
        self._is_separate = needs_fp32(fused)
        self._activation = None if self._is_separate else name
        self._packed: dict[tuple[int, ...], tuple[Tensor, list[int]]] = {}

    def forward(self, images: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the activations (B, C, H', W') of `images` (B, C, H, W) uint8; `other` is overwritten by them."""
        shape = tuple(images.shape)
        if shape not in self._packed:
            self._packed[shape] = self._pack(shape)
        packed, padding = self._packed[shape]
        weights, (stride, dilation, groups) = self._weights, self._fused[0].geometry
        geometry = (weights.bias, stride, padding, dilation, groups)
        about = (images, *self._inputs, packed, weights.scale, weights.zero)
        run, outputs = torch.ops.onednn.qconv2d_pointwise, (*self._outputs, self._dtype)
        if other is None:
            found = run(*about, *geometry, *outputs, self._activation or "none", self._scalars, "")
            return found.sigmoid_() if self._is_separate else found
        after = (*self._other, "sum", 1.0, self._activation, self._scalars, None)
        return run.binary(*about, other, *geometry, *outputs, *after)

    def in_fp32(self) -> FusedConvolution:
        """Return the convolution in fp32 whose weights are rounded like these."""
        weights = self._weights
        return self._fused[0].with_weights(weights.bytes * weights.scale.view(-1, 1, 1, 1), weights.bias)

    def _pack(self, shape: tuple[int, ...]) -> tuple[Tensor, list[int]]:
        """Return the weights in oneDNN's layout for images of this shape, and the padding."""
        stride, dilation, groups = self._fused[0].geometry
        kernel, padding = self._fused[0].evenly_padded(self._weights.bytes, shape)
        about = (*self._inputs, stride, padding, dilation, groups, list(shape))
        return torch.ops.onednn.qconv_prepack(kernel, self._weights.scale, *about), padding


class Int8Linear(nn.Module):
    """A linear layer whose products are in 8 bits, from bytes (..., C) to float32."""

    def __init__(self, layer: nn.Linear, mean: Tensor, inputs: Bytes) -> None:
        super().__init__()
        self._weights, self._inputs = _Weights(layer.weight, layer.bias, mean, 1), inputs
        self._packed = torch.ops.onednn.qlinear_prepack(self._weights.bytes, None)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the products (..., out) of `rows` (..., C) uint8."""
        weights = self._weights
        about = (rows, *self._inputs, self._packed, weights.scale, weights.zero, weights.bias)
        return torch.ops.onednn.qlinear_pointwise(*about, *Bytes(), torch.float32, "none", [], "")


class Int8MaxPool(nn.Module):
    """Max-pooling of bytes (B, C, H, W), which stand for the same numbers before and after."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        geometry = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        self._geometry = [list(each) if isinstance(each, tuple) else [each, each] for each in geometry]
        self._ceil_mode = pool.ceil_mode

    def forward(self, images: Tensor) -> Tensor:
        """Return the largest byte of each window (B, C, H', W')."""
        return torch.ops.quantized.max_pool2d(images, *self._geometry, self._ceil_mode)
