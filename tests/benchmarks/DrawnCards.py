"""Draws photographs of playing cards: 53 classes that differ in details, unlike anything in ImageNet.

    python -m tests.benchmarks.DrawnCards cards        # writes cards/train, cards/valid and cards/test, 20 MB

Each is of another design (font, colours, size of the symbols, pips or a picture, worn or not), lies on another
background, and is turned, seen from an angle, cropped, blurred and lit differently. The same seed draws the same cards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

RANKS = {
    "ace": "A",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "jack": "J",
    "queen": "Q",
    "king": "K",
}
SUITS = {"clubs": "\u2663", "diamonds": "\u2666", "hearts": "\u2665", "spades": "\u2660"}
NUMBER = {"train": 106, "valid": 16, "test": 18}  # images of each class
SIZE, CARD = 128, (240, 336)  # of the pictures, of a card before it is photographed
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LETTERS = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf"]
LETTERS += ["STIXGeneral.ttf", "STIXGeneralBol.ttf", "cmb10.ttf", "cmss10.ttf"]
# Where the pips of two to ten lie, as shares of the area for pips.
_LEFT, _RIGHT, _ROWS = [(0.0, y / 3) for y in range(4)], [(1.0, y / 3) for y in range(4)], [0.0, 0.5, 1.0]
PIPS = {
    1: [(0.5, 0.5)],
    2: [(0.5, 0.0), (0.5, 1.0)],
    3: [(0.5, y) for y in _ROWS],
    4: [(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)],
    5: [(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)] + [(0.5, 0.5)],
    6: [(x, y) for x in (0.0, 1.0) for y in _ROWS],
    7: [(x, y) for x in (0.0, 1.0) for y in _ROWS] + [(0.5, 0.25)],
    8: [(x, y) for x in (0.0, 1.0) for y in _ROWS] + [(0.5, 0.25), (0.5, 0.75)],
    9: [*_LEFT, *_RIGHT, (0.5, 0.5)],
    10: [*_LEFT, *_RIGHT, (0.5, 1 / 6), (0.5, 5 / 6)],
}
Colour = tuple[int, int, int]


class Painter:
    """Draws cards by the numbers of one generator."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.draw = draw

    def between(self, low: float, high: float) -> float:
        return float(self.draw.uniform(low, high))

    def colour(self, around: Colour, by: int) -> Colour:
        red, green, blue = (int(np.clip(each + self.draw.integers(-by, by + 1), 0, 255)) for each in around)
        return red, green, blue

    def card(self, rank: str, suit: str) -> np.ndarray:
        """Return a card (H, W, 3) as printed."""
        width, height = CARD
        paper = self.colour((238, 234, 226), 17)
        picture = Image.new("RGB", CARD, paper)
        ink = self.colour((190, 25, 35), 30) if suit in ("hearts", "diamonds") else self.colour((30, 30, 35), 25)
        if rank == "joker":
            ink = self.colour((90, 60, 120), 80)
        letters = str(FONTS / self.draw.choice(LETTERS))
        size, margin = int(self.between(34, 58)), int(self.between(6, 18))
        inside = (int(self.between(0.2, 0.27) * width), int(self.between(0.12, 0.2) * height))
        if rank in ("jack", "queen", "king", "joker"):
            self._figure(picture, rank, ink, inside)
        else:
            self._pips(picture, rank, suit, ink, inside)
        corner = self._corner(rank, suit, ink, letters, size)
        picture.paste(corner, (margin, margin), corner)
        upside_down = corner.rotate(180)
        picture.paste(upside_down, (width - margin - corner.width, height - margin - corner.height), upside_down)
        ImageDraw.Draw(picture).rectangle(
            (0, 0, width - 1, height - 1), outline=self.colour((120, 120, 120), 60), width=2
        )
        return np.asarray(picture)

    def _corner(self, rank: str, suit: str, ink: Colour, letters: str, size: int) -> Image.Image:
        text = RANKS.get(rank, "\u2605")
        font = ImageFont.truetype(letters if rank != "joker" else str(FONTS / "DejaVuSans.ttf"), size)
        width = int(font.getlength(text)) + 4
        corner = Image.new("RGBA", (max(width, size), int(2.1 * size)), (0, 0, 0, 0))
        pen = ImageDraw.Draw(corner)
        pen.text((corner.width / 2, 0.5 * size), text, font=font, fill=ink, anchor="mm")
        if suit:
            font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), int(self.between(0.75, 1.0) * size))
            pen.text((corner.width / 2, 1.5 * size), SUITS[suit], font=font, fill=ink, anchor="mm")
        return corner

    def _pips(self, picture: Image.Image, rank: str, suit: str, ink: Colour, inside: tuple[int, int]) -> None:
        places = PIPS[list(RANKS).index(rank) + 1]
        size = int(self.between(80, 150) if len(places) == 1 else self.between(40, 60))
        font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), size)
        pip = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
        ImageDraw.Draw(pip).text((size, size), SUITS[suit], font=font, fill=ink, anchor="mm")
        for x, y in places:
            left = inside[0] + x * (CARD[0] - 2 * inside[0]) - size
            top = inside[1] + y * (CARD[1] - 2 * inside[1]) - size
            turned = pip.rotate(180) if y > 0.5 else pip
            picture.paste(turned, (int(left), int(top)), turned)

    def _figure(self, picture: Image.Image, rank: str, ink: Colour, inside: tuple[int, int]) -> None:
        """Draw a framed figure: patches of colours, a head, and what it wears by rank."""
        (left, top), (right, bottom) = inside, (CARD[0] - inside[0], CARD[1] - inside[1])
        pen = ImageDraw.Draw(picture)
        pen.rectangle((left, top, right, bottom), outline=ink, width=3, fill=self.colour((225, 215, 190), 30))
        palette = [self.colour(each, 50) for each in ((180, 40, 40), (40, 60, 150), (220, 180, 50), (30, 30, 30))]
        for _ in range(int(self.draw.integers(6, 14))):
            corners = [(self.between(left, right), self.between(top + 60, bottom)) for _ in range(3)]
            pen.polygon(corners, fill=palette[self.draw.integers(len(palette))])
        middle, head = (left + right) / 2, top + self.between(45, 65)
        pen.ellipse(
            (middle - 22, head - 26, middle + 22, head + 26), fill=self.colour((225, 185, 150), 25), outline=ink
        )
        if rank == "king":
            spikes = [(middle - 26 + 13 * n, head - (48 if n % 2 else 24)) for n in range(5)]
            pen.polygon([(middle - 26, head - 18), *spikes, (middle + 26, head - 18)], fill=palette[2], outline=ink)
            pen.polygon([(middle - 18, head + 12), (middle + 18, head + 12), (middle, head + 46)], fill=palette[3])
        elif rank == "queen":
            pen.arc((middle - 28, head - 34, middle + 28, head + 46), 140, 400, fill=palette[3], width=9)
            pen.ellipse((middle - 8, head - 44, middle + 8, head - 28), fill=palette[2], outline=ink)
        elif rank == "jack":
            pen.pieslice((middle - 32, head - 40, middle + 32, head + 10), 180, 360, fill=palette[1], outline=ink)
        else:
            for sign in (-1, 1):
                pen.polygon(
                    [(middle, head - 20), (middle + 10 * sign, head - 26), (middle + 44 * sign, head - 54)], fill=ink
                )

    def photograph(self, card: np.ndarray) -> np.ndarray:
        """Return a photograph (SIZE, SIZE, 3) of a card that lies somewhere."""
        height, width = card.shape[:2]
        side = 2 * SIZE
        rough = self.draw.integers(0, 256, (int(self.between(2, 24)), int(self.between(2, 24)), 3))
        ground = cv2.resize(rough.astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        scale = self.between(0.68, 1.0) * side / height
        angle = np.deg2rad(self.draw.normal(0, 14) + 180 * (self.draw.random() < 0.15))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        placed = (corners - (width / 2, height / 2)) @ turn.T * scale + side / 2 + self.draw.normal(0, 0.05 * side, 2)
        placed += self.draw.normal(0, 0.03 * side, (4, 2))
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), placed.astype(np.float32))
        seen = cv2.warpPerspective(card, matrix, (side, side), flags=cv2.INTER_AREA)
        mask = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, (side, side))[..., None] / 255
        mixed = (ground * self.between(0.4, 0.9) * (1 - mask) + seen * mask).astype(np.float32)
        light = cv2.resize(self.draw.uniform(0.65, 1.2, (2, 2)).astype(np.float32), (side, side))
        mixed *= light[..., None] * self.draw.uniform(0.9, 1.1, 3).astype(np.float32)
        small = cv2.resize(mixed, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), self.between(0.1, 1.1)) + self.draw.normal(
            0, self.between(1, 7), small.shape
        )
        return np.clip(small, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    names = [(f"{rank} of {suit}", rank, suit) for suit in SUITS for rank in RANKS] + [("joker", "joker", "")]
    for label, (name, rank, suit) in enumerate(names):
        for place, (split, number) in enumerate(NUMBER.items()):
            painter = Painter(np.random.default_rng([flags.seed, label, place]))
            folder = flags.folder / split / name
            folder.mkdir(parents=True)
            for image in range(number):
                picture = painter.photograph(painter.card(rank, suit))
                quality = int(painter.draw.integers(60, 96))
                Image.fromarray(picture).save(folder / f"{image:03}.jpg", quality=quality)


if __name__ == "__main__":
    main()
