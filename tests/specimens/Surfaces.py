"""What a card lies on when it is photographed: wood, cloth, paper, tiles, stone, carpet, or nothing much."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tests.specimens.Card import Image, gradient
from tests.specimens.Dice import Colour, Dice, mixed


def coloured(dice: Dice, colour: Colour, shade: Image, may_turn: bool = True) -> Image:
    """Return a surface `(H, W, 3)` of `colour` and relief `shade` `(H, W)`, half the time with its grain upright."""
    height, width = shade.shape
    if may_turn and dice.chance(0.5):
        shade = cv2.resize(np.ascontiguousarray(shade.T), (width, height), interpolation=cv2.INTER_LINEAR)
    far_end = mixed(colour, dice.pick(((0, 0, 0), (255, 255, 255))), dice.uniform(0, 0.15))
    surface = gradient(width, height, colour, far_end, 0.5)
    return np.rint(surface + shade[:, :, None]).clip(0, 255).astype(np.uint8)


def any_colour(dice: Dice) -> Colour:
    """Return a colour for a surface, mostly a quiet one."""
    return dice.colour((5, 80) if dice.chance(0.8) else (80, 170), (70, 235))


def noise(dice: Dice, width: int, height: int, across: int, down: int) -> Image:
    """Return float32 noise `(height, width)` about 0 with so many bumps across and down."""
    coarse = dice.standard_normal((down + 1, across + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def wood(dice: Dice, width: int, height: int) -> Image:
    """Return planks with their grain."""
    shade = 15 * noise(dice, width, height, 4, 160) + 16 * noise(dice, width, height, 3, 24)
    shade[np.arange(height) % dice.randint(120, 320) < 3] -= 40
    return coloured(dice, dice.colour((40, 140), (90, 225), dice.randint(8, 18)), shade)


def cloth(dice: Dice, width: int, height: int) -> Image:
    """Return a weave with soft folds, plain or chequered."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    period = dice.uniform(6, 14)
    shade = 9 * np.sin(x * 6.28 / period) * np.sin(y * 6.28 / period) + 22 * noise(dice, width, height, 5, 5)
    if dice.chance(0.5):
        shade += 22 * ((x // 90 % 2) - (y // 90 % 2))
    return coloured(dice, any_colour(dice), shade)


def paper(dice: Dice, width: int, height: int) -> Image:
    """Return ruled paper."""
    shade = 5 * noise(dice, width, height, 120, 120)
    shade[np.arange(height) % 44 < 2] -= 26
    return coloured(dice, any_colour(dice), shade, may_turn=False)


def tiles(dice: Dice, width: int, height: int) -> Image:
    """Return square tiles with dark joints."""
    side, shade = dice.randint(130, 260), 10 * noise(dice, width, height, 30, 30)
    shade[np.arange(height) % side < 7] -= 45
    shade[:, np.arange(width) % side < 7] -= 45
    return coloured(dice, any_colour(dice), shade, may_turn=False)


def stone(dice: Dice, width: int, height: int) -> Image:
    """Return a mottled slab."""
    return speckled(dice, width, height, 60)


def carpet(dice: Dice, width: int, height: int) -> Image:
    """Return a carpet's fine pile."""
    return speckled(dice, width, height, 150)


def speckled(dice: Dice, width: int, height: int, bumps: int) -> Image:
    """Return a surface with so many fine bumps either way, and large soft ones."""
    shade = 14 * noise(dice, width, height, bumps, bumps) + 14 * noise(dice, width, height, 7, 7)
    return coloured(dice, any_colour(dice), shade)


def plain(dice: Dice, width: int, height: int) -> Image:
    """Return a smooth surface."""
    return coloured(dice, any_colour(dice), np.zeros((height, width), np.float32))


SURFACES: tuple[Callable[[Dice, int, int], Image], ...] = (wood, cloth, paper, tiles, plain, stone, wood, carpet)
