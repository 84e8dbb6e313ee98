"""What training reads: one row per image, from the cache or, where there is no room for that, from the files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from MLPipeline.CreateDataset import read_images
from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import ImageIndex


@dataclass(frozen=True)
class CachedRows:
    """Stored rows of the images of an index: `take` returns them as the model's trainable part wants them."""

    stored: np.ndarray  # (M, ...) memory-mapped
    numbers: np.ndarray  # (N, 1 + K) int64 row of each image as it is, then of its K views; -1: none
    are_pixels: bool

    @property
    def row_bytes(self) -> int:
        """Size of one row as stored."""
        return int(np.prod(self.stored.shape[1:])) * self.stored.itemsize

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return images (B, 3, H, W) uint8, or features (B, ...) float32; of K views that of `epoch`, from 1 on."""
        num_views = self.numbers.shape[1] - 1
        view = 1 + (epoch - 1) % num_views if num_views and epoch else 0
        rows = torch.from_numpy(self.stored[self.numbers[positions, view]])
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: the layout convolutions are fastest in.
        return rows.permute(0, 3, 1, 2) if self.are_pixels else rows.float()


@dataclass(frozen=True)
class FileRows:
    """The images of an index, decoded each time they are asked for."""

    index: ImageIndex
    image_size: int
    workers: int
    are_pixels: bool = True

    @property
    def row_bytes(self) -> int:
        """Size of one decoded image."""
        return 3 * self.image_size**2

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        """Return images (B, 3, H, W) uint8.

        Raises:
            DataError: a file that could be read before cannot be read any more.
        """
        pictures = np.empty((len(positions), self.image_size, self.image_size, 3), np.uint8)
        paths = [self.index.path(position) for position in positions.tolist()]
        for picture, reading in zip(pictures, read_images(paths, self.image_size, self.workers), strict=True):
            if reading.pixels is None:
                raise DataError(f"{reading.path}: {reading.reason}, but could be read before", "Put it back; --resume")
            picture[:] = reading.pixels
        return torch.from_numpy(pictures).permute(0, 3, 1, 2)
