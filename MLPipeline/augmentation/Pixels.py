"""Moves, recolours and mixes batches of images, with separate parameters for each image, on any device.

Needed because torchvision.transforms.v2.functional applies one angle or strength to a whole batch. The result for an
image is bit-identical in any batch: sums whose order may vary are sums of integers.
B, H, W: images (B, 3, H, W) uint8, in any memory format, are never modified in place. Parameters are NumPy float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# The luma weights of red, green and blue (ITU-R BT.601), and the conversion to the YIQ colour space of NTSC.
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([GREY_WEIGHTS, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def affine(
    num_images: int,
    xx: np.ndarray | float = 1.0,
    xy: np.ndarray | float = 0.0,
    yx: np.ndarray | float = 0.0,
    yy: np.ndarray | float = 1.0,
    dx: np.ndarray | float = 0.0,
    dy: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return matrices (B, 3, 3) that give the source of each pixel; entries are (B,) or one number for all images.

    The pixel at (x, y) of the new image, in pixels to the right of and below the centre, is taken from
    (xx x + xy y + dx, yx x + yy y + dy) of the old one. `first @ second` applies `first`, then `second`.
    """
    matrices = np.tile(np.eye(3), (num_images, 1, 1))
    for (row, column), values in {(0, 0): xx, (0, 1): xy, (1, 0): yx, (1, 1): yy, (0, 2): dx, (1, 2): dy}.items():
        matrices[:, row, column] = values
    return matrices


def move(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Return `images` moved by `matrices` of `affine`, interpolated once; empty areas are filled by reflection.

    If all are flips and whole-pixel shifts, pixels are copied; interpolation would return the same, more slowly.
    """
    linear, shifts = matrices[:, :2, :2], matrices[:, :2, 2]
    if (np.abs(linear) == np.eye(2)).all() and (shifts == np.rint(shifts)).all():
        return _copy_pixels(images, matrices)
    return _interpolate(images, matrices)


def _copy_pixels(images: Tensor, matrices: np.ndarray) -> Tensor:
    num_images, _, height, width = images.shape
    rows = _sources(height, matrices[:, 1, 1], matrices[:, 1, 2]) + height * np.arange(num_images)[:, None]
    columns = _sources(width, matrices[:, 0, 0], matrices[:, 0, 2])
    sources = torch.from_numpy(width * rows[:, :, None] + columns[:, None, :]).flatten().to(images.device)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    return pixels.index_select(0, sources).view(num_images, height, width, 3).permute(0, 3, 1, 2)


def _sources(size: int, signs: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return the source position of each of `size` rows (or columns): (B, size) int64."""
    center = (size - 1) / 2
    sources = (signs[:, None] * (np.arange(size) - center) + shifts[:, None] + center).astype(np.int64) % (2 * size)
    return np.minimum(sources, 2 * size - 1 - sources)  # reflected at the edges, any number of times


def _interpolate(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Return the images interpolated by `functional.grid_sample`.

    The grid is computed here: `functional.affine_grid` takes 2.5 times as long, with a matrix product for two sums.
    """
    num_images, _, height, width = images.shape
    # The coordinates of grid_sample range from -1 at the left edge to 1 at the right edge.
    scaled = torch.from_numpy(matrices[:, :2] * [[2 / width], [2 / height]]).to(images.device, torch.float32)
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    grid = torch.empty(num_images, height, width, 2, device=images.device)
    for axis in range(2):
        by_x, by_y, shift = scaled[:, axis, :, None].unbind(1)
        torch.add((by_x * x)[:, None, :], (by_y * y + shift)[:, :, None], out=grid[..., axis])
    return _to_uint8(functional.grid_sample(_to_float(images), grid, padding_mode="reflection", align_corners=False))


def recolour(
    images: Tensor, brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue_degrees: np.ndarray
) -> Tensor:
    """Return `images` with changed brightness, contrast, saturation and hue, in this order.

    The first three are defined as in torchvision, with 1 for no change: they blend the image with black, with its mean
    grey, and with the grey of each pixel. Hue rotates colours about the grey axis of YIQ. All are linear, so they form
    one matrix per image, and values are clipped to 0..255 once, at the end. All parameters are (B,).
    """
    saturate = _entries(saturation) * np.eye(3) + _entries(1 - saturation) * np.tile(GREY_WEIGHTS, (3, 1))
    matrices = _turn_hue(hue_degrees) @ saturate * _entries(contrast * brightness)
    pixels = _to_float(images)
    # Exact in any order: the sum of a row is below 2**24, and the rows are summed as integers.
    means = pixels.sum(dim=3).long().sum(dim=2).float() / pixels[0, 0].numel()
    red, green, blue = (weight * mean for weight, mean in zip(GREY_WEIGHTS.tolist(), means.unbind(1), strict=True))
    share = torch.from_numpy((1 - contrast) * brightness).to(images.device, torch.float32)
    offsets = (share * (red + green + blue))[:, None, None]
    colours = torch.from_numpy(matrices).to(images.device, torch.float32)
    return _to_uint8(torch.baddbmm(offsets, colours, pixels.flatten(2)).clamp_(0, 255).view(images.shape))


def _entries(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _turn_hue(degrees: np.ndarray) -> np.ndarray:
    """Return matrices (B, 3, 3) for RGB colours that rotate the hue and preserve greys and luma."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.tile(np.eye(3), (len(degrees), 1, 1))
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    return np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ


def boxes(
    top: np.ndarray, left: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return masks (B, H, W) bool, True inside one box per image; boxes may extend beyond the `size` (H, W)."""
    y, x = np.arange(size[0]), np.arange(size[1])
    inside_rows = (y >= top[:, None]) & (y < (top + heights)[:, None])
    inside_columns = (x >= left[:, None]) & (x < (left + widths)[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def mix(images: Tensor, targets: Tensor, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return images and targets (B, C), each mixed with the previous one in the batch, the first with the last.

    `keep`, (B, H, W) or (B, 1, 1), is the weight of the image itself for each pixel, 0 to 1; targets use its mean.
    """
    weights = torch.from_numpy(keep).to(images.device, torch.float32)[:, None]
    pixels = _to_float(images)
    shares = torch.from_numpy(keep.mean(axis=(1, 2), dtype=np.float64)).to(targets.device, targets.dtype)[:, None]
    return _to_uint8(pixels.roll(1, 0).lerp_(pixels, weights)), targets.roll(1, 0).lerp_(targets, shares)


def _to_float(images: Tensor) -> Tensor:
    """Return a contiguous float32 copy."""
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def _to_uint8(values: Tensor) -> Tensor:
    """Return `values`, 0 to 255, rounded; `values` are overwritten."""
    # Converting to int16 first takes less than half the time of converting directly to uint8.
    return values.round_().to(torch.int16).to(torch.uint8)
