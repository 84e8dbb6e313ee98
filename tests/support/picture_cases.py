"""Pictures and their encoded bytes, for tests of image reading."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image


def scene(width: int = 96, height: int = 64) -> np.ndarray:
    """Return a coloured picture with different corners, smooth so that lossy formats preserve it."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.dstack([255 * across, 255 * down, 255 * (1 - across) * down]).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 60, (240, 320, 3), dtype=np.uint8)
    return encode(scene(320, 240) // 2 + noise, "JPEG", quality=85, **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data)
    return caught.value.reason


def distance(pixels: np.ndarray, other: np.ndarray) -> float:
    assert pixels.shape == other.shape
    return float(np.abs(pixels.astype(float) - other).mean())
