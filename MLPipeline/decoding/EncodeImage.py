"""Encodes pixels as JPEG or PNG."""

from __future__ import annotations

import numpy as np

from MLPipeline.decoding.ReadImage import cv2


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return `pixels` (H, W, 3) uint8 RGB as a JPEG file of `quality` 0 to 100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def encode_png(pixels: np.ndarray) -> bytes:
    """Return `pixels`, (H, W, 3) RGB or (H, W) grey, uint8, as a PNG file (lossless)."""
    _, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()
