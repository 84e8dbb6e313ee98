"""What depends on the global batch, of which each rank holds a share: gradients, BatchNorm, dropout.

Inside `whole_batch(model)`, the ranks compute what one process with the global batch would: BatchNorm uses the
statistics of all ranks, and dropout draws a mask for the global batch and uses the part for this rank's images. Results
do not depend on the number of ranks, and the random generators of all ranks stay synchronized.

B images of this rank, C channels, R ranks; a rank may have no images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from MLPipeline.distributed.Ranks import ranks


@contextmanager
def whole_batch(model: nn.Module) -> Iterator[None]:
    """Let the layers of `model` use the global batch inside the block; with one process this does nothing."""
    changed = [layer for layer in model.modules() if _shared_kind(type(layer))] if ranks.size > 1 else []
    # Only the class changes; parameters, names and references to the layer stay valid.
    for layer in changed:
        layer.__class__ = _shared_kind(type(layer)) or type(layer)
    try:
        yield
    finally:
        for layer in changed:
            layer.__class__ = type(layer).__bases__[-1]


def is_shared(model: nn.Module) -> bool:
    """Return whether the ranks communicate within `model`, so that no rank may compute its share in parts."""
    return any(isinstance(layer, _BatchNorm) and layer.training for layer in model.modules())


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients of `model` over all ranks.

    All at once after the backward pass, not in buckets during it as DistributedDataParallel does: on a CPU no core is
    idle to send them meanwhile, and the model remains the plain module that is saved.
    """
    if ranks.size == 1:
        return
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    flat = ranks.reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


class _Normalize(torch.autograd.Function):
    """Batch normalization with the statistics of all ranks; gradients flow across ranks.

    Source: Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, section 3. torch's SyncBatchNorm supports
    GPUs only; it combines the statistics in the same way.
    """

    @staticmethod
    def forward(
        context: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return outputs like `inputs` (B, C, ...), mean (C,), biased variance (C,), and the number of values."""
        mean, variance, count = _statistics(inputs)
        context.save_for_backward(inputs, weight, mean, variance, count)
        context.eps = eps
        context.mark_non_differentiable(mean, variance, count)
        return functional.batch_norm(inputs, mean, variance, weight, bias, False, 0.0, eps), mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of inputs, weight and bias; those of weight and bias are for this rank's images only."""
        inputs, weight, mean, variance, count = context.saved_tensors
        scale = (variance + context.eps).rsqrt()
        scaled = scale if weight is None else scale * weight
        direct, slope, offset = torch.zeros_like(inputs), torch.zeros_like(mean), torch.zeros_like(mean)
        if len(inputs):  # torch's kernel divides by the number of images
            # With constant statistics; the gradient through the statistics, shared by all ranks, is added below.
            direct, slope, offset = torch.ops.aten.native_batch_norm_backward(
                gradient, inputs, scaled.new_ones(len(mean)) if weight is None else weight,
                mean, variance, None, None, False, context.eps, [True, True, True],
            )  # fmt: skip
        slopes, offsets = ranks.reduce(torch.stack([slope, offset])) / count
        tilt = scaled * scale * slopes
        through = torch.addcmul(_along(scaled * offsets - tilt * mean, inputs), inputs, _along(tilt, inputs))
        return (direct - through).to(inputs.dtype), *((None, None) if weight is None else (slope, offset)), None


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count () per channel of the values of all ranks."""
    dtype = torch.promote_types(inputs.dtype, torch.float32)  # half precision is too coarse for statistics
    blank = torch.zeros(inputs.shape[1], dtype=dtype, device=inputs.device)
    mean, variance = torch.batch_norm_update_stats(inputs, blank, blank, 0.0) if len(inputs) else (blank, blank)
    own = torch.cat([mean, variance, mean.new_tensor([inputs.numel() / inputs.shape[1]])])
    everyone = own.new_zeros(ranks.size, len(own))
    everyone[ranks.rank] = own
    means, variances, counts = ranks.reduce(everyone).split([len(mean), len(mean), 1], dim=1)
    count = counts.sum()
    mean = (means * counts).sum(0) / count
    # Chan et al., Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979: never negative.
    return mean, ((variances + (means - mean).square()) * counts).sum(0) / count, count


def _along(values: Tensor, inputs: Tensor) -> Tensor:
    """Return (C,) in a shape that broadcasts with (B, C, ...)."""
    return values.view(-1, *[1] * (inputs.ndim - 2))


class _BatchNorm:
    """Replaces `forward` of BatchNorm of any number of dimensions."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        if not self.training:
            return super().forward(inputs)  # type: ignore[misc]
        outputs, mean, variance, count = _Normalize.apply(inputs, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
        return outputs


class _BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    pass


class _Noise:
    """Replaces `forward` of a layer that multiplies by noise: uses this rank's part of the noise for all ranks."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        mine = ranks.mine(ranks.batch_size)
        if (
            not self.training or len(inputs) != mine.stop - mine.start
        ):  # only a part of the batch, because memory is short
            return super().forward(inputs)  # type: ignore[misc]
        shape = (ranks.batch_size, *(inputs.shape[1:] if isinstance(self, nn.Dropout) else [1] * (inputs.ndim - 1)))
        return inputs * super().forward(inputs.new_ones(shape))[mine]  # type: ignore[misc]


class _Dropout(_Noise, nn.Dropout):
    pass


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.Dropout: _Dropout,
}


def _shared_kind(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class that replaces `kind`, if it depends on the global batch.

    There are several classes StochasticDepth: torchvision's, whose import takes 0.25 s, and that of EfficientNet-Lite.
    """
    if kind.__name__ == "StochasticDepth":
        return _KINDS.setdefault(kind, type("_StochasticDepth", (_Noise, kind), {}))
    return _KINDS.get(kind)
