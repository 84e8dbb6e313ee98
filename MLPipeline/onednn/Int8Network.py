"""What a backbone in 8 bits consists of besides its weights in fp32: what was measured on training images.

It lies in `model.pt` beside those weights, and gives the same network on any processor; see `Int8Backbone`.
L layers in 8 bits.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TENSORS = 3  # whose ranges are measured for each layer: its input, what is added to its sums, its output


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


@dataclass(frozen=True, eq=False)
class Int8Network:
    """What was measured for the layers that are computed in 8 bits, in the order of the network."""

    ranges: Tensor  # (L, TENSORS, 2) float32: lowest and highest value; 0 where there is no such tensor
    means: Tensor  # (channels of all inputs,) float32: the mean input of each layer, one layer after the other
    shift: Shift | None = None  # None: not measured, for lack of validation images

    @cached_property
    def digest(self) -> str:
        """A hash of what was measured: with the weights, features belong to it alone."""
        content = (each.contiguous().numpy().tobytes() for each in (self.ranges, self.means))
        return hashlib.blake2b(b"".join(content), digest_size=16).hexdigest()

    @property
    def num_layers(self) -> int:
        """How many layers are computed in 8 bits."""
        return len(self.ranges)


def can_compute_int8() -> bool:
    """Return whether torch has kernels for 8 bits that are fast on this processor."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.cpu.get_cpu_capability() != "DEFAULT"  # neither AVX2 nor AVX-512
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv2d_pointwise")
    )
