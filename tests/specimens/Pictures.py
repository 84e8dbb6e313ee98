"""Things that are no documents at all: landscapes, mugs, keys, leaves, fruit, shapes."""

from __future__ import annotations

import cv2
import numpy as np

from tests.specimens.Card import Card, Image, gradient
from tests.specimens.Dice import Dice, mixed


def scenery(dice: Dice, width: int, height: int) -> Image:
    """Return a landscape `(height, width, 3)`: sky, sun, hills or houses, perhaps water."""
    view = Card(dice, 1000, 700, 0)
    hue = dice.pick((105, 105, 12, 165, 20, 118))
    view.pixels = gradient(
        1000, 700, dice.colour((60, 170), (120, 235), hue), dice.colour((10, 70), (210, 255), hue), 1.0
    )
    view.ellipse(
        dice.randint(150, 850),
        dice.randint(90, 260),
        60,
        60,
        dice.pick(((255, 244, 200), (250, 220, 150), (245, 245, 250))),
    )
    x = np.linspace(0, 1000, 60)
    base = dice.pick((60, 95, 30, 15))
    for layer in range(4):
        swing = dice.uniform(30, 110) / (1 + layer * 0.5)
        ridge = 330 + 85 * layer + swing * np.sin(x / dice.uniform(70, 190) + dice.uniform(0, 6))
        hill = dice.colour(
            (50 + 20 * layer, 110 + 25 * layer), (150 - 25 * layer, 200 - 30 * layer), base + dice.randint(-8, 9)
        )
        view.polygon(np.concatenate([np.stack([x, ridge], axis=1), ((1000, 700), (0, 700))]), hill)
    if dice.chance(0.4):
        houses(view)
    else:
        for _ in range(dice.randint(3, 12)):
            left, ground, size = dice.randint(20, 980), dice.randint(450, 690), dice.uniform(30, 90)
            view.polygon(
                ((left, ground - 2 * size), (left - size / 2, ground), (left + size / 2, ground)), (40, 70, 50)
            )
    return cv2.resize(view.pixels, (width, height), interpolation=cv2.INTER_AREA)


def houses(view: Card) -> None:
    """Draw a row of houses with lit windows along the bottom."""
    dice, left = view.dice, 0
    while left < 1000:
        wide, tall = dice.randint(80, 170), dice.randint(130, 360)
        view.box(left, 700 - tall, wide, tall, dice.colour((20, 130), (80, 220)))
        view.polygon(
            ((left - 8, 700 - tall), (left + wide + 8, 700 - tall), (left + wide / 2, 640 - tall)), (110, 60, 50)
        )
        for column in range(left + 16, left + wide - 26, 38):
            for row in range(720 - tall, 670, 56):
                view.box(column, row, 22, 32, dice.pick(((250, 230, 160), (70, 80, 100))))
        left += wide + dice.randint(0, 40)


def landscape(dice: Dice) -> Card:
    """Return a landscape that fills the whole picture."""
    card = Card(dice, 1000, 700, 0)
    card.pixels, card.full_frame = scenery(dice, 1000, 700), True
    return card


def cut_out(card: Card, drawn: Card) -> Card:
    """Return `card` with the outline that was drawn in white onto `drawn`."""
    card.mask = drawn.pixels[:, :, 0].copy()
    return card


def canvases(dice: Dice, width: int, height: int) -> tuple[Card, Card]:
    """Return a card to colour and a black one to draw its outline on in white."""
    card, outline = Card(dice, width, height, 0), Card(dice, width, height, 0)
    outline.pixels[:] = 0
    return card, outline


def mug(dice: Dice) -> Card:
    """Return a mug or a plate, seen from above or from the side."""
    card, outline = canvases(dice, 860, 760)
    white, glaze = (255, 255, 255), dice.colour((40, 210), (90, 240))
    if dice.chance(0.5):
        for target, colour in ((outline, white), (card, glaze)):
            target.ellipse(640, 380, 150, 170, colour, 50)
            target.box(130, 80, 500, 600, colour, 60)
        card.ellipse(380, 110, 235, 46, mixed(glaze, (0, 0, 0), 0.4))
        card.text(
            dice.pick(("HELLO", "TEA", "MONDAY", "SEA")),
            180,
            330,
            400,
            90,
            dice.pick((white, (30, 30, 40))),
            True,
            "centre",
        )
    else:
        outline.ellipse(400, 380, 360, 360, white)
        card.pixels[:] = (244, 242, 236)
        card.ellipse(400, 380, 300, 300, glaze, 14)
        for _ in range(dice.randint(3, 8)):
            x, y = dice.randint(250, 560), dice.randint(240, 530)
            size = dice.randint(40, 90)
            card.ellipse(x, y, size, size * 0.8, dice.colour((80, 230), (110, 230)))
    return cut_out(card, outline)


def keys(dice: Dice) -> Card:
    """Return two or three keys on a ring."""
    card, outline = canvases(dice, 900, 700)
    white = (255, 255, 255)
    for number in range(dice.randint(2, 4)):
        metal = dice.pick(((206, 176, 92), (186, 190, 196), (150, 104, 70)))
        angle = 0.35 + number * 0.5 + dice.uniform(-0.1, 0.1)
        way, side = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
        start = np.array((180.0, 160.0))
        bow, tip = start + 150 * way, start + 560 * way
        for target, colour in ((outline, white), (card, metal)):
            target.line((bow, tip), colour, 34)
            target.ellipse(bow[0], bow[1], 86, 86, colour)
            for step in (0.0, 60.0, 105.0):
                target.line((tip - step * way, tip - step * way + 60 * side), colour, 26)
            target.ellipse(start[0], start[1], 110, 110, colour, 14)
        card.ellipse(bow[0], bow[1], 40, 40, mixed(metal, (0, 0, 0), 0.5))
    return cut_out(card, outline)


def leaves(dice: Dice) -> Card:
    """Return a few leaves or fruits lying about."""
    card, outline = canvases(dice, 900, 700)
    fruit = dice.chance(0.5)
    for _ in range(dice.randint(3, 7)):
        centre, size = np.array((dice.uniform(150, 750), dice.uniform(150, 550))), dice.uniform(80, 140)
        angle, steps = dice.uniform(0, 6.28), np.linspace(-1, 1, 30)
        half = size * (np.sqrt(np.clip(1 - steps**2, 0, 1)) if fruit else 0.5 * (1 - steps**2))
        way, side = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
        middle = centre + size * steps[:, None] * way
        points = np.concatenate([middle + half[:, None] * side, (middle - half[:, None] * side)[::-1]])
        colour = dice.colour((120, 230), (110, 220), dice.pick((5, 14, 25, 40, 60)))
        outline.polygon(points, (255, 255, 255))
        card.polygon(points, colour)
        vein = mixed(colour, (0, 0, 0), 0.3)
        card.line(middle[-4:] if fruit else middle, vein, 12 if fruit else 5)
    return cut_out(card, outline)


def painting(dice: Dice) -> Card:
    """Return an abstract picture of overlapping shapes that fills the whole frame."""
    card = Card(dice, 1000, 700, 0)
    card.full_frame = True
    for _ in range(dice.randint(10, 26)):
        x, y, size = dice.uniform(0, 1000), dice.uniform(0, 700), dice.uniform(40, 200)
        colour = dice.colour((30, 220), (70, 250))
        if dice.chance(0.5):
            card.ellipse(x, y, size, size * dice.uniform(0.4, 1), colour)
        else:
            card.polygon(np.array((x, y)) + dice.uniform(-size, size, (4, 2)), colour)
    return card
