"""What every network sees of pixels: shifted and scaled; part of the model, so that nothing can disagree about it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalization(nn.Module):
    """Subtracts `mean` (1, C, 1, 1) from pixels (0 to 255), and divides them by `std` (1, C, 1, 1)."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        """Return `images` (B, C, H, W) as float, normalised."""
        if images.dtype != torch.uint8 or not images.is_contiguous(memory_format=torch.channels_last):
            return (images - self.mean) / self.std
        # The same arithmetic in the order of memory, which takes a third of the time.
        rows = images.permute(0, 2, 3, 1).flatten(2).float()  # (B, H, C W)
        mean, std = (each.flatten().repeat(images.shape[3]) for each in (self.mean, self.std))
        return rows.sub_(mean).div_(std).unflatten(2, (-1, images.shape[1])).permute(0, 3, 1, 2)
