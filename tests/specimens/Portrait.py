"""Drawn passport photographs of nobody: skin, hair, shirt, glasses and beards thrown by dice."""

from __future__ import annotations

import cv2
import numpy as np

from tests.specimens.Card import Card, Image
from tests.specimens.Dice import Colour, Dice, mixed

SKINS = ((250, 220, 196), (236, 196, 164), (214, 164, 124), (178, 124, 88), (134, 88, 60), (92, 60, 44))
HAIRS = ((28, 24, 22), (64, 42, 28), (112, 72, 40), (176, 128, 64), (222, 190, 120), (150, 62, 34), (170, 168, 166))
BACKDROPS = ((226, 230, 236), (188, 206, 226), (236, 232, 222), (176, 178, 182), (206, 222, 206), (232, 208, 196))
BLACK = (0, 0, 0)
WIDTH, HEIGHT = 240, 300


def portrait(dice: Dice, width: int, height: int) -> Image:
    """Return a head and shoulders `(height, width, 3)`; one in six is black and white."""
    photo = Card(dice, WIDTH, HEIGHT, 0)
    backdrop = dice.pick(BACKDROPS)
    photo.pixels[:] = backdrop
    skin, hair = dice.pick(SKINS), dice.pick(HAIRS)
    style = dice.pick(("bald", "short", "short", "parted", "long", "long", "curly", "bun"))
    half = dice.uniform(50, 58)  # the face's half width
    if style == "long":
        photo.ellipse(120, 158, half + 20, 104, hair)
    if style == "curly":
        curls(photo, hair, half)
    shoulders(photo, skin)
    for side in (-1, 1):
        photo.ellipse(120 + side * half, 145, 9, 16, mixed(skin, BLACK, 0.1))
    photo.ellipse(120, 138, half, 70, skin)
    features(photo, skin, hair)
    hairdo(photo, hair, style, half)
    picture = cv2.GaussianBlur(photo.pixels, (0, 0), 1.2)
    if dice.chance(0.16):
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    # Cut to the wanted shape rather than squeezed: faces keep their proportions.
    rows = min(HEIGHT, round(WIDTH * height / width))
    columns = min(WIDTH, round(HEIGHT * width / height))
    left = (WIDTH - columns) // 2
    return cv2.resize(picture[:rows, left : left + columns], (width, height), interpolation=cv2.INTER_AREA)


def shoulders(photo: Card, skin: Colour) -> None:
    """Draw neck and shirt: a round neck, a collar, or a jacket with a tie."""
    dice = photo.dice
    shirt = dice.colour((20, 200), (50, 230))
    photo.box(96, 180, 48, 70, mixed(skin, BLACK, 0.14))
    photo.ellipse(120, 318, 116, 82, shirt)
    kind = dice.randint(3)
    if kind == 0:
        photo.ellipse(120, 236, 30, 22, mixed(skin, BLACK, 0.14))
    elif kind == 1:
        photo.polygon(((92, 232), (120, 268), (104, 284), (80, 244)), mixed(shirt, BLACK, 0.25))
        photo.polygon(((148, 232), (120, 268), (136, 284), (160, 244)), mixed(shirt, BLACK, 0.25))
    else:
        photo.polygon(((94, 232), (146, 232), (120, 300)), (244, 244, 240))
        photo.polygon(((113, 246), (127, 246), (131, 300), (109, 300)), dice.colour((120, 220), (60, 180)))


def features(photo: Card, skin: Colour, hair: Colour) -> None:
    """Draw eyes, brows, nose and mouth, perhaps a beard and glasses."""
    dice, shade = photo.dice, mixed(skin, BLACK, 0.28)
    if dice.chance(0.25):
        photo.ellipse(120, 182, 38, 30, hair)
        photo.ellipse(120, 160, 34, 26, skin)
    eye = dice.pick(((60, 40, 30), (60, 90, 120), (70, 100, 70)))
    for side in (-1, 1):
        centre = 120 + side * 23
        photo.ellipse(centre, 132, 10, 6, (246, 244, 240))
        photo.ellipse(centre, 132, 5, 5, eye)
        photo.line(((centre - 13, 117 + side), (centre, 113), (centre + 13, 117 - side)), mixed(hair, BLACK, 0.2), 4)
    photo.line(((119, 138), (113, 160), (123, 162)), shade, 3)
    smile = dice.uniform(-2, 7)
    photo.line(((102, 182 - smile), (112, 184), (120, 185), (128, 184), (138, 182 - smile)), (168, 84, 80), 4)
    if dice.chance(0.3):
        for side in (-1, 1):
            photo.ellipse(120 + side * 24, 133, 19, 15, (40, 40, 44), 3)
        photo.line(((115, 132), (125, 132)), (40, 40, 44), 3)


def curls(photo: Card, hair: Colour, half: float) -> None:
    """Draw a cloud of curls behind and above the head."""
    for angle in np.linspace(np.pi * 0.9, np.pi * 2.1, 16):
        size = photo.dice.uniform(16, 26)
        photo.ellipse(120 + (half + 8) * np.cos(angle), 112 + 54 * np.sin(angle), size, size, hair)


def hairdo(photo: Card, hair: Colour, style: str, half: float) -> None:
    """Draw the hair over the forehead; the curly and the bald have none there."""
    if style in ("bald", "curly"):
        return
    if style == "bun":
        photo.ellipse(120, 52, 24, 20, hair)
    low = 98 if style == "parted" else 108
    angle = np.linspace(np.pi, 2 * np.pi, 40)
    crown = np.stack([120 + (half + 6) * np.cos(angle), 124 + 74 * np.sin(angle)], axis=1)
    fringe = (
        (120 + half * 0.8, low),
        (150, low - 16),
        (104 if style == "parted" else 122, low - 22),
        (120 - half * 0.8, low),
    )
    photo.polygon(np.concatenate([crown, np.array(fringe)]), hair)
