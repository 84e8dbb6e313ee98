"""How much of one grey thumbnail another one explains, after alignment of position, size, brightness and contrast."""

from __future__ import annotations

from functools import cache

import numpy as np

from MLPipeline.decoding.ReadImage import cv2

MIN_COARSE = 0.93  # share explained at half the size, from which on a fit at full size is worth its time
MAX_LOCAL_ERROR = 0.6  # relative to the contrast, in the worst of 8 x 8 blocks: a cropped copy of a form reaches 0.4
_BLOCKS = 8
_EDGE = 2  # pixels ignored on every side: gradients are one-sided there, and cropping shows
_MAX_MOTION = 0.1  # relative to half a side


def compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the share of each image of `first` (M, 64, 64) uint8 that its partner in `second` explains: (M,) up to 1.

    The second image is shifted, stretched and adjusted in gain and offset to fit the first, which undoes cropping and
    resaving. The share is 0 if any part does not fit at all. Images that fit at half the size are fitted at full size.
    """
    likeness = np.zeros(len(first), np.float32)
    coarse, motion, _ = _fit(_halve(first), _halve(second))
    promising = np.flatnonzero(coarse >= MIN_COARSE)
    if len(promising):
        moved = np.stack([_move(second[position], motion[position]) for position in promising])
        share, _, error = _fit(first[promising].astype(np.float32), moved)
        likeness[promising] = np.where(error <= MAX_LOCAL_ERROR, share, 0)
    return likeness


def _fit(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share explained (M,), the motion (M, 4) as for `_move`, and the error of the worst block (M,).

    Least squares on the second image, a constant, and its gradients times 1 and the position (Lucas and Kanade 1981,
    "An iterative image registration technique"): one linear step finds gain, offset, shift and stretch together.
    """
    side, inner = first.shape[1], slice(_EDGE, -_EDGE)
    blur = _blur_matrix(side)
    first, second = blur @ first @ blur.T, blur @ second @ blur.T
    down, across = (each[:, inner, inner] for each in np.gradient(second, 2 / side, axis=(1, 2)))
    position = ((np.arange(side, dtype=np.float32) * 2 + 1) / side - 1)[inner]
    targets, basis = first[:, None, inner, inner], second[:, inner, inner]
    basis = np.stack([basis, np.ones_like(basis), across, across * position, down, down * position[:, None]], axis=1)
    targets, basis = (each.reshape(*each.shape[:2], -1) for each in (targets, basis))  # (M, 1 or 6, pixels)
    transposed, ridge = basis.transpose(0, 2, 1), 0.01 * np.eye(basis.shape[1], dtype=np.float32)
    weights = np.linalg.solve(basis @ transposed + ridge, basis @ targets.transpose(0, 2, 1))  # (M, 6, 1)
    residual = (targets - weights.transpose(0, 2, 1) @ basis)[:, 0] ** 2
    variance = np.maximum(targets[:, 0].var(axis=1), 1e-6)
    blocks = _block_means(residual.reshape(len(first), side - 2 * _EDGE, side - 2 * _EDGE))
    gain = np.where(np.abs(weights[:, :1, 0]) < 0.3, np.inf, weights[:, :1, 0])
    motion = np.clip(weights[:, 2:, 0] / gain, -_MAX_MOTION, _MAX_MOTION)
    return 1 - residual.mean(axis=1) / variance, motion, np.sqrt(blocks.max(axis=(1, 2)) / variance)


@cache
def _blur_matrix(side: int) -> np.ndarray:
    """Return the matrix (side, side) float32 that blurs the columns of an image by a Gaussian of one pixel."""
    return cv2.GaussianBlur(np.eye(side, dtype=np.float32), (1, 9), 1.0)


def _block_means(squares: np.ndarray) -> np.ndarray:
    starts = np.linspace(0, squares.shape[1], _BLOCKS, endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(squares, starts, axis=1), starts, axis=2)
    counts = np.diff([*starts, squares.shape[1]])
    return sums / np.outer(counts, counts)


def _move(picture: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return the image, float32, moved by (shift x, stretch x, shift y, stretch y) in units of half a side."""
    half = picture.shape[0] / 2
    (shift_x, stretch_x, shift_y, stretch_y), centre = motion, half - 0.5
    matrix = np.array(
        [
            [1 + stretch_x, 0, shift_x * half - stretch_x * centre],
            [0, 1 + stretch_y, shift_y * half - stretch_y * centre],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        picture.astype(np.float32), matrix, picture.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def _halve(pictures: np.ndarray) -> np.ndarray:
    rows = pictures[:, ::2].astype(np.float32) + pictures[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
