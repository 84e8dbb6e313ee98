"""Loss weights for classes of unequal size."""

from __future__ import annotations

import torch
from torch import Tensor


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return float32 (C,) loss weights by the effective number of images of each class; their mean over `labels` is 1.

    Images of a large class are often similar, so n of them count as (1 - b^n) / (1 - b) < n, with b = 1 - 1/N: rare
    classes gain weight, but less than with 1/n. A class without images has weight 0.
    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, arXiv:1901.05555, equation 2.
    """
    counts = torch.bincount(labels, minlength=num_classes).double()
    rest = 1 - 1 / max(2, len(labels))
    weights = torch.where(counts > 0, (1 - rest) / (1 - rest**counts), 0.0)
    return (weights * len(labels) / (weights * counts).sum().clamp(min=1e-300)).float()
