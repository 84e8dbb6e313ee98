"""One flat card to draw on: pixels, an outline mask, and a few strokes in card units (one unit is one pixel)."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.specimens.Dice import Colour, Dice, Scheme, mixed

Image = NDArray[Any]  # uint8: OpenCV's own annotations promise no more than an array
Align = Literal["left", "centre", "right"]
CAP_HEIGHT = 20.0  # pixels of a capital letter at font scale 1


class Card:
    """Card of `pixels` `(H, W, 3)` RGB, cut out by `mask` `(H, W)`, 0 outside and 255 inside."""

    def __init__(
        self, dice: Dice, width: int = 1000, height: int = 630, radius: int = 32, scheme: Scheme | None = None
    ) -> None:
        self.dice = dice
        self.width, self.height = width, height
        self.scheme = scheme or Scheme.drawn(dice)
        self.full_frame = False  # True: a picture of its own rather than a thing lying on a background
        self.pixels = gradient(width, height, self.scheme.paper, self.scheme.tint, dice.pick((0.0, 0.5, 1.0)))
        self.mask: Image = np.zeros((height, width), np.uint8)
        fill_rounded(self.mask, (0, 0, width, height), 255, radius)

    def blend(self, coverage: Image, colour: Colour, x: int = 0, y: int = 0, alpha: float = 1.0) -> None:
        """Lay `colour` where `coverage` `(h, w)` is above 0, its corner at (x, y); what sticks out is cut."""
        left, top = max(x, 0), max(y, 0)
        coverage = coverage[top - y : max(self.height - y, 0), left - x : max(self.width - x, 0)]
        below = self.pixels[top : top + coverage.shape[0], left : left + coverage.shape[1]]
        weight = coverage[:, :, None].astype(np.float32) * (alpha / 255)
        below[:] = np.rint(below + (np.array(colour, np.float32) - below) * weight)

    def text(
        self,
        words: str,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: Colour | None = None,
        bold: bool = False,
        align: Align = "left",
        slant: float = 0.0,
        arch: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """Write `words` with capitals `height` high, narrowed to `width`, from (x, y), the capitals' upper left corner.

        `slant` leans the letters (0.25: italic); `arch` lets the line's ends hang by so many units.
        """
        strip = lettering(words, height, bold, slant)
        if strip.shape[1] > width:
            # Half by narrowing, half by shrinking: what a typesetter would do.
            ratio = width / strip.shape[1]
            strip = cv2.resize(strip, (int(width), round(strip.shape[0] * ratio**0.5)), interpolation=cv2.INTER_AREA)
        rows, columns = strip.shape
        if arch:
            across = np.linspace(-1, 1, columns, dtype=np.float32)
            down = np.arange(rows + int(arch), dtype=np.float32)[:, None] - arch * across**2
            along = np.broadcast_to(np.arange(columns, dtype=np.float32), down.shape)
            strip = cv2.remap(strip, np.ascontiguousarray(along), down, cv2.INTER_LINEAR)
        start = x + {"left": 0.0, "centre": 0.5, "right": 1.0}[align] * (width - columns)
        top = y - rows / 4 + (height - rows / 2) / 2  # the capitals fill the strip's middle half
        self.blend(strip, self.scheme.ink if colour is None else colour, int(start), int(top), alpha)

    def box(
        self, x: float, y: float, width: float, height: float, colour: Colour, radius: int = 0, alpha: float = 1.0
    ) -> None:
        """Fill a rectangle, its corners rounded by `radius`."""
        coverage: Image = np.zeros((max(int(height), 1), max(int(width), 1)), np.uint8)
        fill_rounded(coverage, (0, 0, coverage.shape[1], coverage.shape[0]), 255, radius)
        self.blend(coverage, colour, int(x), int(y), alpha)

    def line(self, points: ArrayLike, colour: Colour, thickness: int = 2, closed: bool = False) -> None:
        """Draw a line through `points` (x, y)."""
        corners = np.rint(np.array(points)).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(self.pixels, [corners], closed, colour, thickness, cv2.LINE_AA)

    def frame(self, x: float, y: float, width: float, height: float, colour: Colour, thickness: int = 2) -> None:
        """Draw a rectangle's outline."""
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        self.line(corners, colour, thickness, closed=True)

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """Fill the shape between `points` (x, y)."""
        corners = np.rint(np.array(points)).astype(np.int32).reshape(-1, 1, 2)
        cv2.fillPoly(self.pixels, [corners], colour, cv2.LINE_AA)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Colour, thickness: int = -1) -> None:
        """Draw an ellipse around (x, y) with these half axes; filled unless a `thickness` is given."""
        centre, axes = (int(x), int(y)), (max(int(across), 1), max(int(down), 1))
        cv2.ellipse(self.pixels, centre, axes, 0, 0, 360, colour, thickness, cv2.LINE_AA)

    def paste(self, picture: Image, x: float, y: float, alpha: float = 1.0, width: int = 0) -> None:
        """Lay `picture` `(h, w, 3)` at (x, y), reduced to `width` if that is given."""
        rows, columns = picture.shape[:2]
        if width:
            rows, columns = rows * width // columns, width
            picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        below = self.pixels[int(y) : int(y) + rows, int(x) : int(x) + columns]
        picture = picture[: below.shape[0], : below.shape[1]]
        below[:] = cv2.addWeighted(picture, alpha, below.copy(), 1 - alpha, 0)

    def mark_specimen(self) -> None:
        """Write SPECIMEN across the card, thin enough to read what lies below."""
        dice = self.dice
        height = int(min(self.width, self.height) * dice.uniform(0.11, 0.16))
        strip = lettering("SPECIMEN", height, bold=True)
        size = max(self.width, self.height)
        canvas: Image = np.zeros((size, size), np.uint8)
        strip = strip[:, : size - 2]
        top, left = (size - strip.shape[0]) // 2, (size - strip.shape[1]) // 2
        canvas[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
        tilt = dice.uniform(-12, 35) if self.width >= self.height else dice.uniform(35, 70)
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), tilt, dice.uniform(0.8, 1.1))
        turn[0, 2] += (self.width - size) / 2
        turn[1, 2] += (self.height - size) / 2 + self.height * dice.uniform(-0.12, 0.15)
        coverage = cv2.warpAffine(canvas, turn, (self.width, self.height))
        colour = dice.pick(((190, 40, 40), (60, 70, 150), (80, 80, 80)))
        if self.pixels[self.mask > 0].mean() < 120:
            colour = mixed(colour, (255, 255, 255), 0.65)
        self.blend(coverage, colour, alpha=dice.uniform(0.3, 0.42))


def lettering(words: str, height: float, bold: bool = False, slant: float = 0.0) -> Image:
    """Return `words` as coverage `(2 * height, w)`, 0 to 255; the capitals fill the strip's middle half."""
    scale = height / CAP_HEIGHT
    thickness = max(2, round(height / 11)) if bold else max(1, round(height / 24))
    (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    lean = int(slant * height)
    strip: Image = np.zeros((int(2 * height), width + thickness + lean + 2), np.uint8)
    start = (1 + thickness // 2, int(1.5 * height))
    cv2.putText(strip, words, start, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    if lean:
        shear = np.array([[1, -slant, slant * 1.5 * height], [0, 1, 0]], np.float32)
        strip = cv2.warpAffine(strip, shear, (strip.shape[1], strip.shape[0]))
    return strip


def gradient(width: int, height: int, first: Colour, second: Colour, direction: float = 0.0) -> Image:
    """Return `(height, width, 3)` running from `first` to `second`: across (0.0) to down (1.0)."""
    across = np.linspace(0, 1, width, dtype=np.float32)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    blend = ((1 - direction) * across + direction * down)[:, :, None]
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    return np.rint(start + blend * (end - start)).astype(np.uint8)


def fill_rounded(target: Image, rectangle: tuple[int, int, int, int], colour: int, radius: int) -> None:
    """Fill `rectangle` (x, y, width, height) of a one-channel `target`, its corners rounded by `radius`."""
    x, y, width, height = rectangle
    radius = min(radius, width // 2, height // 2)
    right, bottom = x + width - 1, y + height - 1
    cv2.rectangle(target, (x + radius, y), (right - radius, bottom), colour, -1)
    cv2.rectangle(target, (x, y + radius), (right, bottom - radius), colour, -1)
    if radius:
        for centre in (
            (x, y),
            (right - 2 * radius, y),
            (x, bottom - 2 * radius),
            (right - 2 * radius, bottom - 2 * radius),
        ):
            cv2.circle(target, (centre[0] + radius, centre[1] + radius), radius, colour, -1, cv2.LINE_AA)
