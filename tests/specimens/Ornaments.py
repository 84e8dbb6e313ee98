"""What documents are decorated with: fine lines, seals, borders, bars, signatures, stamps, vehicles."""

from __future__ import annotations

import cv2
import numpy as np

from tests.specimens.Card import Card, Image
from tests.specimens.Dice import Colour


def guilloche(card: Card, colour: Colour, alpha: float = 0.35) -> None:
    """Cover the card with a banknote's fine wavy lines, or with rings, or with slanting hatches."""
    dice, lines = card.dice, np.zeros((card.height, card.width), np.uint8)
    x = np.arange(0, card.width + 8, 8)
    style = dice.randint(3)
    period, phase, swing = dice.uniform(90, 320), dice.uniform(0, 6), dice.uniform(8, 40)
    for number in range(-8, int(card.height / 15) + 8):
        if style == 0:
            points = np.stack([x, 16 * number + swing * np.sin(x / period * 6.28 + phase + number * 0.12)], axis=1)
            cv2.polylines(lines, [points.astype(np.int32)], False, 255, 1, cv2.LINE_AA)
        elif style == 1:
            centre = (int(card.width * (0.3 + phase / 15)), card.height // 2)
            cv2.ellipse(lines, centre, (abs(17 * number) + 9, abs(11 * number) + 9), 0, 0, 360, 255, 1, cv2.LINE_AA)
        else:
            start = 40 * number
            cv2.line(lines, (start, 0), (start + int(swing * 9), card.height), 255, 2, cv2.LINE_AA)
    card.blend(lines, colour, alpha=alpha)


def rosette(radius: float, petals: int, depth: float, turns: float = 1.0) -> np.ndarray:
    """Return the points `(n, 2)` of a flower-like closed line around (0, 0)."""
    angle = np.linspace(0, 2 * np.pi * turns, int(240 * turns))
    distance = radius * (1 - depth + depth * np.cos(petals * angle))
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)


def seal(card: Card, x: float, y: float, radius: float, colour: Colour, filled: bool = False) -> None:
    """Draw a round official-looking seal of no office: rings, petals, and a star, tree, ship or tower within."""
    dice = card.dice
    if filled:
        card.polygon(rosette(radius, dice.randint(18, 36), 0.05) + (x, y), colour)
        colour = card.scheme.contrast
    card.ellipse(x, y, radius * 0.92, radius * 0.92, colour, 3)
    card.ellipse(x, y, radius * 0.66, radius * 0.66, colour, 2)
    for angle in np.linspace(0, 2 * np.pi, 28, endpoint=False):
        card.ellipse(
            x + radius * 0.79 * np.cos(angle), y + radius * 0.79 * np.sin(angle), radius / 24, radius / 24, colour
        )
    emblem(card, x, y, radius * 0.5, colour)


def emblem(card: Card, x: float, y: float, radius: float, colour: Colour) -> None:
    """Draw a star, a tree, a ship, a tower or a sun, about `radius` in size, around (x, y)."""
    kind, r = card.dice.randint(5), radius
    if kind == 0:
        card.polygon(star(x, y, r), colour)
    elif kind == 1:
        for step in range(3):
            top, half = y - r + step * r * 0.45, r * (0.4 + 0.2 * step)
            card.polygon(((x, top), (x - half, top + r * 0.7), (x + half, top + r * 0.7)), colour)
        card.box(x - r * 0.12, y + r * 0.55, r * 0.24, r * 0.4, colour)
    elif kind == 2:
        hull = ((x - r, y + r * 0.3), (x + r, y + r * 0.3), (x + r * 0.6, y + r * 0.8), (x - r * 0.6, y + r * 0.8))
        card.polygon(hull, colour)
        card.polygon(((x, y - r), (x, y + r * 0.15), (x - r * 0.8, y + r * 0.15)), colour)
        card.polygon(((x + r * 0.1, y - r * 0.7), (x + r * 0.1, y + r * 0.15), (x + r * 0.6, y + r * 0.15)), colour)
    elif kind == 3:
        card.box(x - r * 0.4, y - r * 0.5, r * 0.8, r * 1.4, colour)
        for notch in (-0.6, -0.15, 0.3):
            card.box(x + r * notch, y - r * 0.9, r * 0.3, r * 0.5, colour)
    else:
        card.ellipse(x, y, r * 0.45, r * 0.45, colour)
        for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
            way = np.array((np.cos(angle), np.sin(angle))) * r
            card.line(((x, y) + 0.6 * way, (x, y) + way), colour, max(2, int(r / 9)))


def star(x: float, y: float, radius: float) -> np.ndarray:
    """Return the corners `(10, 2)` of a five-pointed star around (x, y)."""
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    distance = np.where(np.arange(10) % 2, 0.42, 1.0) * radius
    return np.stack([x + distance * np.cos(angle), y + distance * np.sin(angle)], axis=1)


def signature(card: Card, x: float, y: float, width: float, height: float, colour: Colour) -> None:
    """Write an unreadable signature: loops that grow smaller, and perhaps a stroke below."""
    dice, steps = card.dice, np.linspace(0, 1, 200)
    loops, phase = dice.uniform(4, 9), dice.uniform(0, 6.28)
    knots = dice.uniform(0.12, 1.0, 9) * np.linspace(1, 0.5, 9)
    knots[dice.randint(3)] = 1.1
    swing = height / 2 * np.interp(steps, np.linspace(0, 1, 9), knots)
    across = (
        x + width * (0.04 + 0.86 * steps) + width / loops * dice.uniform(0.15, 0.4) * np.cos(loops * 6.28 * steps + 1)
    )
    down = y + height / 2 + swing * np.sin(loops * 6.28 * steps + phase)
    card.line(np.stack([across, down], axis=1), colour, 3)
    if dice.chance(0.5):
        ends = ((x, y + height * 0.9), (x + width * 0.5, y + height * 0.8), (x + width, y + height * 0.95))
        card.line(ends, colour, 2)


def barcode(card: Card, x: float, y: float, width: float, height: float, square: bool = False) -> None:
    """Draw a bar code, or with `square` a block of random squares, that encodes nothing."""
    dice = card.dice
    card.box(x, y, width, height, (248, 248, 246))
    if square:
        bits: Image = (dice.random_sample((max(int(height / 9), 2), max(int(width / 9), 2))) < 0.5).astype(np.uint8)
        coverage = cv2.resize(bits * 255, (int(width) - 12, int(height) - 12), interpolation=cv2.INTER_NEAREST)
        card.blend(coverage, (20, 20, 20), int(x) + 6, int(y) + 6)
        return
    left = x + 10
    while left < x + width - 16:
        thick = dice.randint(2, 8)
        card.box(left, y + 6, thick, height - 12, (20, 20, 20))
        left += thick + dice.randint(3, 9)


def wavy_border(card: Card, colour: Colour, inset: int = 26) -> None:
    """Frame the card with interlaced waves between two lines, as certificates have it."""
    amplitude, count = card.dice.randint(7, 13), card.dice.randint(18, 34)
    left, top, right, bottom = inset, inset, card.width - inset, card.height - inset
    steps = np.linspace(0, 1, 300)
    for phase in (0.0, np.pi / 2, np.pi):
        wave = amplitude * np.sin(steps * count * np.pi + phase)
        for level in (top, bottom):
            card.line(np.stack([left + steps * (right - left), level + wave], axis=1), colour, 2)
        for level in (left, right):
            card.line(np.stack([level + wave, top + steps * (bottom - top)], axis=1), colour, 2)
    gap = amplitude + 6
    card.frame(left + gap, top + gap, right - left - 2 * gap, bottom - top - 2 * gap, colour, 2)


def column(card: Card, x: float, y: float, width: float, height: float, colour: Colour) -> None:
    """Draw a temple's column: base, fluted shaft, capital."""
    for level in (y, y + height - 22):
        card.box(x, level, width, 22, colour, 6)
    shaft = width * 0.7
    left = x + (width - shaft) / 2
    card.box(left, y + 22, shaft, height - 44, colour, alpha=0.35)
    for step in np.linspace(0, 1, 5):
        card.line(((left + step * shaft, y + 22), (left + step * shaft, y + height - 22)), colour, 3)


def chip(card: Card, x: float, y: float) -> None:
    """Draw the metal contacts of a chip card, 110 by 88 units."""
    card.box(x, y, 110, 88, (212, 180, 96), 14)
    for level in (28, 58):
        card.line(((x, y + level), (x + 110, y + level)), (120, 96, 40), 2)
    card.frame(x + 36, y + 10, 38, 68, (120, 96, 40), 2)


def stamp(card: Card, x: float, y: float, width: float, words: str, colour: Colour) -> None:
    """Press a tilted rubber stamp with `words` onto the card."""
    ink = Card(card.dice, int(width), int(width * 0.36), 0, card.scheme)
    ink.pixels[:] = 0
    ink.frame(6, 6, ink.width - 12, ink.height - 12, (255, 255, 255), 6)
    ink.text(words, 20, ink.height * 0.33, ink.width - 40, ink.height * 0.34, (255, 255, 255), True, "centre")
    turn = cv2.getRotationMatrix2D((width / 2, width / 2), card.dice.uniform(-16, 16), 0.85)
    turn[1, 2] += width * 0.16
    card.blend(cv2.warpAffine(ink.pixels[:, :, 0], turn, (int(width), int(width))), colour, int(x), int(y), 0.6)


def vehicle(card: Card, x: float, y: float, width: float, kind: int, colour: Colour) -> None:
    """Draw a small car (0), lorry (1), motorcycle (2), bus (3) or tractor (4), half as high as wide."""
    w, wheel, ground = width, width * 0.1, y + width * 0.42
    wheels = ((0.22, 1.0), (0.78, 1.0))
    if kind == 0:
        roof = np.array(((0.2, 0.24), (0.32, 0.06), (0.66, 0.06), (0.82, 0.24)))
        card.box(x, y + w * 0.22, w, w * 0.2, colour, int(w * 0.06))
        card.polygon((x, y) + w * roof, colour)
    elif kind == 1:
        card.box(x, y, w * 0.64, w * 0.4, colour)
        card.box(x + w * 0.68, y + w * 0.12, w * 0.3, w * 0.28, colour, int(w * 0.05))
    elif kind == 2:
        body = np.array(((0.22, 0.42), (0.42, 0.2), (0.66, 0.2), (0.78, 0.42)))
        handlebar = np.array(((0.66, 0.24), (0.6, 0.04), (0.48, 0.02)))
        card.line((x, y) + w * body, colour, int(w * 0.08))
        card.line((x, y) + w * handlebar, colour, int(w * 0.05))
        wheels = ((0.2, 1.7), (0.8, 1.7))
    elif kind == 3:
        card.box(x, y, w, w * 0.4, colour, int(w * 0.05))
        for step in range(4):
            card.box(x + w * (0.07 + 0.23 * step), y + w * 0.06, w * 0.16, w * 0.13, card.scheme.paper)
    else:
        card.box(x + w * 0.05, y, w * 0.35, w * 0.34, colour)
        card.box(x + w * 0.4, y + w * 0.18, w * 0.5, w * 0.18, colour)
        wheels = ((0.24, 2.0), (0.82, 1.1))
    for along, size in wheels:
        card.ellipse(x + w * along, ground, wheel * size, wheel * size, colour)
        card.ellipse(x + w * along, ground, wheel * size * 0.5, wheel * size * 0.5, card.scheme.paper)
