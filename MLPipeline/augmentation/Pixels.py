"""Batches of images moved, recoloured and mixed, each image by parameters of its own, on any device.

Own code, because torchvision.transforms.v2.functional takes one angle or strength for a whole batch. An image comes
out the same to the bit whatever the batch around it: sums whose order might change are over integers.
B, H, W: images (B, 3, H, W) uint8, in any memory format, are never changed in place. Parameters are NumPy float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Red, green and blue as the eye weighs them, and the two axes of colour beside grey (ITU-R BT.601 and NTSC's YIQ).
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
    """Return matrices (B, 3, 3) that say where each pixel comes from; each entry is (B,) or one number for all.

    The pixel at (x, y) of the new image, in pixels right of and below the centre, is taken from
    (xx x + xy y + dx, yx x + yy y + dy) of the old one. `first @ second` does `first`, then `second`.
    """
    matrices = np.tile(np.eye(3), (num_images, 1, 1))
    for (row, column), values in {(0, 0): xx, (0, 1): xy, (1, 0): yx, (1, 1): yy, (0, 2): dx, (1, 2): dy}.items():
        matrices[:, row, column] = values
    return matrices


def move(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Return `images` moved by `matrices` of `affine`, interpolated once, mirrored at their edges to fill what is bare.

    Where all are flips and whole-pixel shifts, pixels are copied; interpolating those gives the same, slower.
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
    """Return which of `size` rows (or columns) each new one is a copy of: (B, size) int64."""
    center = (size - 1) / 2
    sources = (signs[:, None] * (np.arange(size) - center) + shifts[:, None] + center).astype(np.int64) % (2 * size)
    return np.minimum(sources, 2 * size - 1 - sources)  # mirrored at the edges, endlessly


def _interpolate(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Return the images as `functional.grid_sample` has them.

    The grid is not `functional.affine_grid`'s, which takes 2.5 times as long: a product of matrices for two sums.
    """
    num_images, _, height, width = images.shape
    # grid_sample counts from -1 at the left edge to 1 at the right one.
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
    """Return `images` made brighter, then of more contrast, more colourful, and turned round the wheel of colours.

    The first three as torchvision has them, 1 for no change: a blend with black, with the mean grey of the image, with
    the grey of the pixel; hue turns colours round the axis of greys in YIQ. All are linear, so they make one matrix per
    image, and brightness is cut off at 0 and 255 once, at the end. All parameters (B,).
    """
    saturate = _entries(saturation) * np.eye(3) + _entries(1 - saturation) * np.tile(GREY_WEIGHTS, (3, 1))
    matrices = _turn_hue(hue_degrees) @ saturate * _entries(contrast * brightness)
    pixels = _to_float(images)
    # Exact in any order: a row's sum stays under 2**24, and the sum of rows is over integers.
    means = pixels.sum(dim=3).long().sum(dim=2).float() / pixels[0, 0].numel()
    red, green, blue = (weight * mean for weight, mean in zip(GREY_WEIGHTS.tolist(), means.unbind(1), strict=True))
    share = torch.from_numpy((1 - contrast) * brightness).to(images.device, torch.float32)
    offsets = (share * (red + green + blue))[:, None, None]
    colours = torch.from_numpy(matrices).to(images.device, torch.float32)
    return _to_uint8(torch.baddbmm(offsets, colours, pixels.flatten(2)).clamp_(0, 255).view(images.shape))


def _entries(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _turn_hue(degrees: np.ndarray) -> np.ndarray:
    """Return matrices (B, 3, 3) on colours that keep greys and what is seen as bright as it was."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.tile(np.eye(3), (len(degrees), 1, 1))
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    return np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ


def boxes(
    top: np.ndarray, left: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return True inside one box per image: (B, H, W) bool for a `size` (H, W), beyond which boxes may reach."""
    y, x = np.arange(size[0]), np.arange(size[1])
    inside_rows = (y >= top[:, None]) & (y < (top + heights)[:, None])
    inside_columns = (x >= left[:, None]) & (x < (left + widths)[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def mix(images: Tensor, targets: Tensor, keep: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return images and targets (B, C), each mixed with those before it in the batch, the first with the last.

    `keep`, (B, H, W) or (B, 1, 1), is how much of its own each pixel keeps, 0 to 1; targets are mixed by its mean.
    """
    weights = torch.from_numpy(keep).to(images.device, torch.float32)[:, None]
    pixels = _to_float(images)
    shares = torch.from_numpy(keep.mean(axis=(1, 2), dtype=np.float64)).to(targets.device, targets.dtype)[:, None]
    return _to_uint8(pixels.roll(1, 0).lerp_(pixels, weights)), targets.roll(1, 0).lerp_(targets, shares)


def _to_float(images: Tensor) -> Tensor:
    """Return a float32 copy with each colour in one piece."""
    return images.to(torch.float32, memory_format=torch.contiguous_format)


def _to_uint8(values: Tensor) -> Tensor:
    """Return `values` of 0 to 255, which are overwritten, rounded."""
    # By way of int16 in less than half of the time of straight to uint8.
    return values.round_().to(torch.int16).to(torch.uint8)
