"""The gradient of wide depthwise convolutions for their weights, computed several times as fast on a processor.

oneDNN, which computes torch's convolutions, has a fast kernel for it only where the filter is at most three columns
wide. For wider ones, the 5x5 filters of EfficientNets above all, it takes a general one: half of the time of all
convolutions in a step of EfficientNet-Lite0. Here the filter is divided into strips of three columns. The gradient of
each is that of a narrow filter on images that are shifted by its place, and the sums are the same, to within rounding.

B images, C channels, H x W and h x w positions before and after the convolution, K x L the size of the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_STRIP = 3  # columns
_IMAGES_AT_ONCE = 8  # a strip of so many images fits into the cache
_PROCESSORS = ("AVX2", "AVX512")  # on which oneDNN has these kernels

Pair = tuple[int, int]


@contextmanager
def fast_depthwise(model: nn.Module) -> Iterator[None]:
    """Compute the gradients of the wide depthwise convolutions of `model` in strips inside the block, where that pays.

    It pays on x86 processors, in fp32; elsewhere nothing is changed.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    are_wide = any(_is_depthwise(layer.weight, layer.groups) for layer in convolutions)
    if not are_wide or torch.backends.cpu.get_cpu_capability() not in _PROCESSORS:
        yield
        return
    with _InStrips():
        yield


class _InStrips(TorchFunctionMode):
    """Lets wide depthwise convolutions with gradients be computed by `_Depthwise`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: str | int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of `images`, as `torch.conv2d` does."""
    is_ours = (
        _is_depthwise(weight, groups)
        and images.shape[1] == groups
        and weight.requires_grad
        and not isinstance(padding, str)
        and _pair(dilation) == (1, 1)
        and images.dtype == weight.dtype == torch.float32
        and images.device.type == "cpu"
    )
    if not is_ours:
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)
    assert not isinstance(padding, str)
    found: Tensor = _Depthwise.apply(images, weight, bias, _pair(stride), _pair(padding))
    return found


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    """Return whether a filter (C, 1, K, L) belongs to a single channel each, and is wider than a strip."""
    return groups == len(weight) and weight.shape[1] == 1 and weight.shape[3] > _STRIP


def _pair(value: int | Sequence[int]) -> Pair:
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows, columns


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradient for the weights is computed in strips."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(images, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = _gradients(slopes, images, weight, ctx.stride, ctx.padding, (True, False))[0]
        of_bias = slopes.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_images, weight_gradient(images, slopes, weight, ctx.stride, ctx.padding), of_bias, None, None


def weight_gradient(images: Tensor, slopes: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient (C, 1, K, L) of a depthwise convolution for its weights.

    Args:
        images: (B, C, H, W) float32.
        slopes: (B, C, h, w), the gradient for the output.
        weight: (C, 1, K, L); only its shape is used.
        stride: of rows and columns.
        padding: rows and columns of zeros on either side.
    """
    number, channels, height, width = images.shape
    found = torch.zeros(weight.shape)
    for first in range(0, weight.shape[3], _STRIP):
        columns = min(_STRIP, weight.shape[3] - first)
        # Column c of the strip is column c + shift of the images.
        shift, size = first - padding[1], (slopes.shape[3] - 1) * stride[1] + columns
        start, end = max(0, -shift), max(0, min(size, width - shift))
        strip = torch.zeros(min(number, _IMAGES_AT_ONCE), height, size, channels).permute(0, 3, 1, 2)
        narrow = weight[..., first : first + columns]
        for some in range(0, number, _IMAGES_AT_ONCE):
            part = images[some : some + _IMAGES_AT_ONCE]
            shown = strip[: len(part)]
            shown[..., start:end].copy_(part[..., start + shift : end + shift])
            these = slopes[some : some + _IMAGES_AT_ONCE]
            found[..., first : first + columns] += _gradients(
                these, shown, narrow, stride, (padding[0], 0), (False, True)
            )[1]
    return found


def _gradients(
    slopes: Tensor, images: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return torch's gradients of a depthwise convolution for images and weights, where they are `wanted`."""
    groups = len(weight)
    return torch.ops.aten.convolution_backward(
        slopes, images, weight, None, stride, padding, (1, 1), False, (0, 0), groups, (*wanted, False)
    )[:2]
