"""Pixels in the colour space of a file's ICC profile -> sRGB, by littlecms (Pillow).

One way for every verb: where a profile is there and is not sRGB, the pixels are converted, relative colorimetric with
black point compensation, as Photoshop and browsers do. A profile that is damaged or does not fit the pixels is left
alone, with a note. Pixels without a profile are sRGB and stay as they are, bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from MLPipeline.decoding.HeaderColour import UNREADABLE

Convert = Callable[[np.ndarray], np.ndarray]
_PILLOW_MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}
_SAME = 2  # of 255: how far a profile may be off and still be called sRGB


def to_srgb(pixels: np.ndarray, profile: bytes) -> tuple[np.ndarray, str]:
    """Return uint8 pixels in sRGB and a note: (H, W) grey, (H, W, 3) RGB or (H, W, 4) CMYK with 0 for "no ink".

    CMYK becomes RGB, whatever the profile; the rest keeps its shape.
    """
    convert, note = _converter(profile, 1 if pixels.ndim == 2 else pixels.shape[2])
    return convert(pixels), note


def from_gamma(pixels: np.ndarray, gamma: float) -> np.ndarray:
    """Return uint8 pixels stored as light ** `gamma` as sRGB stores them, with the exponent 1 / 2.2."""
    levels = np.arange(256) / 255
    return np.round(255 * levels ** (1 / (2.2 * gamma))).astype(np.uint8)[pixels]


@lru_cache(maxsize=64)
def _converter(profile: bytes, channels: int) -> tuple[Convert, str]:
    """Return what brings pixels of so many channels to sRGB, and a note if the profile is not used."""
    from PIL import ImageCms

    unchanged = _mix_inks if channels == 4 else _unchanged
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _PILLOW_MODES.get(opened.profile.xcolor_space, "")
        if {"L": 1, "RGB": 3, "CMYK": 4}.get(mode) != channels:
            # Grey files are often tagged with the RGB profile of the camera that took them.
            is_harmless = channels == 1 and mode == "RGB"
            return unchanged, "" if is_harmless else "colour profile of another colour space: colours left as stored"
        transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return unchanged, UNREADABLE
    if channels == 1:
        curve = _apply(transform, mode, np.arange(256, dtype=np.uint8)[None])[0, :, 1]
        return (lambda pixels: curve[pixels]), ""
    if channels == 3 and _is_srgb(transform):
        return _unchanged, ""
    return (lambda pixels: _apply(transform, mode, pixels)), ""


def _is_srgb(transform: Any) -> bool:
    """Return whether a transform to sRGB leaves a grid of colours as they are."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return int(np.abs(_apply(transform, "RGB", grid).astype(int) - grid).max()) <= _SAME


def _apply(transform: Any, mode: str, pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = pixels.shape[:2]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    return np.array(transform.apply(image))


def _unchanged(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _mix_inks(pixels: np.ndarray) -> np.ndarray:
    """Return RGB for CMYK without a profile: what the inks leave of the light."""
    light = 255 - pixels.astype(np.uint32)
    return np.round(light[:, :, :3] * light[:, :, 3:] / 255).astype(np.uint8)


def lab_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 sRGB for CIE L*a*b* (D50), 8 bits each, a and b as signed numbers."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _apply(ImageCms.buildTransform(lab, srgb, "LAB", "RGB"), "LAB", pixels)
