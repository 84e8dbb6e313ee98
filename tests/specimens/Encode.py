"""The camera: a picture's size and file format, its bytes, its EXIF orientation. Nothing here knows the class."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from tests.specimens.Card import Image
from tests.specimens.Dice import Dice

# How a stored picture is turned so that a viewer who applies this EXIF orientation sees it upright.
UNTURN: dict[int, Callable[[Image], Image]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, 1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, -1),
}
SHAPES = ((4, 3), (3, 2), (8, 5), (4, 3), (3, 4), (1, 1), (16, 10), (4, 5))
FORMATS = {0: "bmp", 3: "png", 19: "png", 35: "png", 51: "png", 9: "webp", 25: "webp", 41: "webp", 57: "webp"}


@dataclass(frozen=True)
class Frame:
    """What one picture is stored as. Each class has the same 64 frames, so that none of this tells the class."""

    number: int  # 0 to 63
    width: int
    height: int
    format: str  # file name ending
    orientation: int  # EXIF, 1 to 8; 1 is upright
    budget: int  # bytes a JPEG or WebP may take

    @property
    def flat(self) -> bool:
        """Return whether this is a scan rather than a photograph: flat light, few tones, stored without loss."""
        return self.format in ("png", "bmp")

    @classmethod
    def numbered(cls, number: int, seed: int) -> Frame:
        """Return the frame of this number."""
        dice = Dice([seed, 7, number])
        ending = FORMATS.get(number, "jpg")
        longer = {"bmp": 200, "png": 320}.get(ending, min(dice.randint(320, 701, 2)))
        across, down = SHAPES[(number // 8 + number) % len(SHAPES)]
        scale = longer / max(across, down)
        width, height = round(across * scale), round(down * scale)
        turned = ending == "jpg" and number % 8 == 5
        budget = int(width * height * dice.uniform(0.75, 1.0) / 8)
        return cls(number, width, height, ending, (6, 8, 3, 6, 5, 8, 7, 2)[number // 8] if turned else 1, budget)


def encode(pixels: Image, frame: Frame) -> bytes:
    """Return `pixels` `(H, W, 3)` RGB as the bytes of a file.

    JPEG and WebP take the best quality that keeps to the frame's budget, so that the file's size depends on the frame
    and not on what is drawn.
    """
    stored = np.ascontiguousarray(UNTURN[frame.orientation](pixels)[:, :, ::-1])
    if frame.flat:
        settings = [cv2.IMWRITE_PNG_COMPRESSION, 9] if frame.format == "png" else []
        return cv2.imencode(f".{frame.format}", stored, settings)[1].tobytes()
    setting = cv2.IMWRITE_WEBP_QUALITY if frame.format == "webp" else cv2.IMWRITE_JPEG_QUALITY
    for quality in range(92, 26, -5):
        data = cv2.imencode(f".{frame.format}", stored, [setting, quality])[1].tobytes()
        if len(data) <= frame.budget:
            break
    return data if frame.orientation == 1 else with_orientation(data, frame.orientation)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return `jpeg` with an EXIF segment (Exif 2.3, 4.5 and 4.6: one IFD, tag 0x0112) after its start marker."""
    entry = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + b"MM" + struct.pack(">HI", 42, 8) + entry
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
