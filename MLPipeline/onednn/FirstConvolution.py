"""The first convolution of a network in 8 bits, and the normalisation before it, from the pixels of images.

Pixels are bytes, so nothing of the input is rounded. Measured on one core with AVX-512 and VNNI, a batch of 8 images of
200 pixels: normalised, convolved in fp32 and stored in 8 bits, 12.3 ms in ResNet50 and 5.7 in EfficientNet-Lite0; here
3.9 and 1.0. B images of a batch, C channels, H and W their size.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from MLPipeline.onednn.FuseConvolutions import FusedConvolution
from MLPipeline.onednn.Int8Layers import Bytes, Int8Convolution
from MLPipeline.onednn.Normalization import Normalization


@cache
def adds_exactly() -> bool:
    """Return whether this processor adds up products of two bytes without overflow, as those with VNNI or AMX do."""
    convolution = nn.utils.skip_init(nn.Conv2d, 3, 16, 3, bias=False)  # which draws no random numbers
    ones = FusedConvolution(convolution, None, torch.float32, None)
    ones = ones.with_weights(torch.ones_like(ones.weight), None)
    probe = Int8Convolution(ones, torch.zeros(3), Bytes(), None, None, is_first=True)
    found = probe(torch.full((1, 8, 8, 3), 255, dtype=torch.uint8).permute(0, 3, 1, 2))
    return bool((found - 255 * 27).abs().max() < 1)


class Int8FirstConvolution(nn.Module):
    """`activation(convolution(normalised pixels))` with weights of 8 bits.

    Args:
        fused: the convolution of normalised images in fp32.
        mean: the mean of normalised training images (C,).
        normalization: how they are normalised.
        outputs: how the output is to be stored; None: it is float32.
    """

    def __init__(
        self, fused: FusedConvolution, mean: Tensor, normalization: Normalization, outputs: Bytes | None
    ) -> None:
        super().__init__()
        dark, std = normalization.mean.flatten(), normalization.std
        self._border = dark.round().to(torch.uint8)  # it is 0 when normalised, as padding is to be
        weight = fused.weight / std
        shift = weight.sum(dim=(2, 3)) @ dark
        self._fused = [fused]  # in a list, since its weights are not part of this module
        of_padded = fused.with_weights(weight, -shift if fused.bias is None else fused.bias - shift)
        of_padded.padding, of_padded.total_padding = [0, 0], None
        layer = Int8Convolution(of_padded, dark + mean * std.flatten(), Bytes(), None, outputs, is_first=True)
        self._of_padded: nn.Module = layer if adds_exactly() else _InFp32(layer.in_fp32(), outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations (B, C', H', W') of `images` (B, C, H, W) uint8."""
        return self._of_padded(self._padded(images))

    def _padded(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        rows, columns = self._fused[0].padding_of(images.shape)
        padded = torch.empty(batch, height + rows, width + columns, channels, dtype=torch.uint8)
        top, left = rows // 2, columns // 2
        bottom, right = top + height, left + width
        for edge in (padded[:, :top], padded[:, bottom:], padded[:, :, :left], padded[:, :, right:]):
            edge[:] = self._border
        padded[:, top:bottom, left:right] = images.permute(0, 2, 3, 1)
        return padded.permute(0, 3, 1, 2)


class _InFp32(nn.Module):
    """The same with the same weights, computed in fp32."""

    def __init__(self, convolution: FusedConvolution, outputs: Bytes | None) -> None:
        super().__init__()
        self._convolution, self._outputs = convolution, outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations of `images` uint8."""
        found = self._convolution(images.float())
        return self._outputs.store(found) if self._outputs else found
