"""Driving licences of places that do not exist: seven layouts, each varied by dice."""

from __future__ import annotations

from collections.abc import Callable

from tests.specimens.Card import Align, Card
from tests.specimens.Dice import STATES, Colour, Dice, Person, mixed
from tests.specimens.Ornaments import barcode, chip, emblem, guilloche, seal, signature, stamp, vehicle
from tests.specimens.Portrait import portrait

HEADINGS = ("DRIVING LICENCE", "DRIVER LICENSE", "DRIVER'S LICENSE", "DRIVER LICENCE", "DRIVING LICENSE")
CLASSES = ("A", "B", "C", "D", "AM", "A1", "B1", "C1", "BE", "M", "CDL-A")
Rows = list[tuple[str, str]]


def number(dice: Dice) -> str:
    """Return a licence number that starts with 000, as none does."""
    return dice.digits(dice.pick(("@000-####-####", "000 ### ###", "@@000####@", "000######")))


def rows_of(person: Person, dice: Dice) -> Rows:
    """Return a licence's fields (label, value), in one of several orders and wordings."""
    numbered = dice.chance(0.5)
    rows = [
        ("1." if numbered else "NAME", f"{person.last} {person.first}".upper()),
        ("3." if numbered else "DOB", person.born),
        ("4a." if numbered else "ISS", person.issued),
        ("4b." if numbered else "EXP", person.expires),
        ("5." if numbered else "DL NO", number(dice)),
        ("8." if numbered else "ADDR", f"{person.street}, {person.town}"),
        ("9." if numbered else "CLASS", " ".join(dice.permutation(CLASSES)[: dice.randint(1, 4)])),
    ]
    if dice.chance(0.5):
        rows.insert(0, rows.pop(4))
    if dice.chance(0.4):
        rows.insert(1, rows.pop(6))
    return rows


def fields(card: Card, rows: Rows, x: float, y: float, width: float, height: float) -> None:
    """Write `rows` one below the other: small labels in the accent colour, values in ink."""
    step = height / len(rows)
    size, gap = min(step * 0.56, 36), width * 0.17
    for place, (label, value) in enumerate(rows):
        top = y + place * step
        card.text(label, x, top + size * 0.3, gap * 0.92, size * 0.68, card.scheme.accent)
        card.text(value, x + gap, top, width - gap, size, bold=place < 2)


def heading(card: Card, x: float, y: float, width: float, height: float, colour: Colour, words: str = "") -> None:
    """Write the heading and the state's name, either above the other."""
    lines = [
        (words or card.dice.pick(HEADINGS), height * 0.55, True),
        (card.dice.pick(STATES).upper(), height * 0.27, False),
    ]
    if card.dice.chance(0.4):
        lines.reverse()
    align: Align = card.dice.pick(("left", "centre", "right"))
    for text, size, bold in lines:
        card.text(text, x, y, width, size, colour, bold, align)
        y += size + height * 0.2


def photo(card: Card, x: int, y: int, width: int, height: int) -> None:
    """Paste a portrait with a thin edge."""
    card.paste(portrait(card.dice, width, height), x, y)
    card.frame(x, y, width, height, card.scheme.accent, 2)


def band(dice: Dice) -> Card:
    """Return a card with a coloured band for the heading, the photograph left or right, a ghost of it opposite."""
    card, person = Card(dice), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.25)
    card.box(0, 0, 1000, 140, card.scheme.accent)
    heading(card, 40, 22, 920, 98, card.scheme.contrast)
    left = dice.chance(0.6)
    place = 40 if left else 680
    photo(card, place, 165, 280, 350)
    signature(card, place + 10, 525, 260, 80, card.scheme.ink)
    fields(card, rows_of(person, dice), 350 if left else 45, 175, 600, 420)
    if dice.chance(0.6):
        card.paste(portrait(dice, 110, 138), 850 if left else 520, 470, 0.45)
    return card


def union(dice: Dice) -> Card:
    """Return a plastic card with a country badge, the heading beside it, and vehicle classes along the bottom."""
    card, person = Card(dice), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.3)
    card.box(30, 28, 150, 104, card.scheme.accent, 10)
    card.text(dice.digits("@@"), 40, 56, 130, 50, card.scheme.contrast, True, "centre")
    heading(card, 205, 30, 760, 108, card.scheme.ink if dice.chance(0.5) else card.scheme.accent)
    left = dice.chance(0.7)
    photo(card, 45 if left else 695, 165, 260, 325)
    fields(card, rows_of(person, dice), 335 if left else 45, 160, 620, 350)
    start = 335 if left else 45
    for place in range(4):
        vehicle(card, start + place * 150, 535, 110, (2, 0, 1, 3)[place], card.scheme.ink)
    signature(card, 50 if left else 700, 510, 250, 80, card.scheme.ink)
    return card


def upright(dice: Dice) -> Card:
    """Return an upright licence: heading, photograph, fields below, bar code."""
    card, person = Card(dice, 630, 1000), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.25)
    colour = card.scheme.accent
    if dice.chance(0.6):
        card.box(0, 0, 630, 150, card.scheme.accent)
        colour = card.scheme.contrast
    heading(card, 30, 34, 570, 110, colour)
    place = dice.pick((35, 165, 295))
    photo(card, place, 175, 300, 350)
    if place != 165:
        emblem(card, 480 if place == 35 else 150, 260, 70, card.scheme.accent)
        vehicle(card, 420 if place == 35 else 80, 400, 150, dice.randint(4), card.scheme.ink)
    fields(card, rows_of(person, dice), 40, 550, 550, 300)
    barcode(card, 40, 870, 330, 95)
    signature(card, 390, 870, 210, 90, card.scheme.ink)
    return card


def back(dice: Dice) -> Card:
    """Return a licence's back: a table of vehicle classes with their dates, and a bar code."""
    card = Card(dice)
    guilloche(card, card.scheme.accent, 0.2)
    card.text(dice.pick(HEADINGS), 40, 30, 560, 46, card.scheme.accent, True)
    card.text(f"9. CLASSES   {number(dice)}", 620, 38, 340, 30)
    count, right = dice.randint(5, 8), dice.pick((1000, 760))
    step, style = 480 / count, dice.randint(4)
    for place in range(count + 1):
        card.line(((40, 100 + place * step), (right - 40, 100 + place * step)), card.scheme.ink)
    for share in (0.0, 0.15, 0.4, 0.7, 1.0):
        across = 40 + share * (right - 80)
        card.line(((across, 100), (across, 580)), card.scheme.ink)
    for place in range(count):
        top, wide = 100 + place * step, right - 80
        card.text(CLASSES[place], 48, top + step * 0.28, 0.13 * wide, step * 0.42, bold=True)
        vehicle(card, 40 + 0.2 * wide, top + step * 0.12, step * 1.35, (2, 2, 0, 1, 3, 4, 1)[place], card.scheme.ink)
        if dice.chance(0.7):
            card.text(dice.date(2012, 2024, style), 50 + 0.4 * wide, top + step * 0.32, 0.27 * wide, step * 0.34)
            card.text(dice.date(2026, 2038, style), 50 + 0.7 * wide, top + step * 0.32, 0.27 * wide, step * 0.34)
    if right == 760:
        barcode(card, 770, 110, 190, 460, square=True)
    return card


def paper(dice: Dice) -> Card:
    """Return a folded paper licence: a stapled photograph, typed fields on dotted lines, a rubber stamp."""
    card, person = Card(dice, 1000, 700, 4), Person.invented(dice)
    colour = card.scheme.accent
    card.frame(20, 20, 960, 660, colour, 4)
    card.line(((500, 0), (500, 700)), mixed(card.scheme.tint, (0, 0, 0), 0.12), 6)
    card.text(dice.pick(STATES).upper(), 60, 45, 880, 36, colour, align="centre")
    card.text(dice.pick(HEADINGS), 60, 100, 880, 72, colour, True, "centre")
    photo(card, 70, 220, 320, 380)
    for place, (label, value) in enumerate(rows_of(person, dice)[:6]):
        top = 220 + place * 64
        card.text(label, 430, top + 16, 100, 24, colour)
        card.text(value, 540, top + 8, 400, 32, slant=0.2 * (place % 2))
        card.line(((530, top + 50), (940, top + 50)), colour, 2)
    stamp(card, 280, 360, 260, dice.pick(("VALID", "ISSUED", "TESTED")), (150, 40, 60))
    signature(card, 560, 605, 330, 60, card.scheme.ink)
    return card


def learner(dice: Dice) -> Card:
    """Return a provisional, learner's or commercial licence: photograph on the right, a large class code beside it."""
    card, person = Card(dice), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.3)
    words = dice.pick(("LEARNER DRIVER LICENCE", "PROVISIONAL DRIVING LICENCE", "COMMERCIAL DRIVER LICENSE"))
    card.box(0, 510, 1000, 120, card.scheme.accent)
    heading(card, 40, 528, 920, 86, card.scheme.contrast, words)
    side = dice.chance(0.5)
    photo(card, 660 if side else 60, 50, 280, 340)
    fields(card, rows_of(person, dice)[:6], 45 if side else 370, 60, 580, 310)
    signature(card, 660 if side else 60, 400, 280, 90, card.scheme.ink)
    vehicle(card, 60 if side else 400, 400, 170, dice.randint(4), card.scheme.ink)
    card.text(dice.pick(("L", "P", "B", "C", "CDL")), 320 if side else 640, 400, 220, 86, card.scheme.accent, True)
    return card


def modern(dice: Dice) -> Card:
    """Return a sparse card: photograph in the middle or at the edge, seal, chip, two columns of fields."""
    card, person = Card(dice), Person.invented(dice)
    if dice.chance(0.5):
        guilloche(card, card.scheme.accent, 0.2)
    left = dice.chance(0.5)
    photo(card, 30 if left else 690, 30, 280, 350)
    start = 345 if left else 40
    heading(card, start, 40, 610, 130, card.scheme.accent)
    fields(card, rows_of(person, dice)[:5], start, 195, 610, 290)
    if dice.chance(0.5):
        seal(card, 170 if left else 830, 500, 85, card.scheme.accent)
    else:
        chip(card, 110 if left else 770, 450)
    signature(card, start, 510, 300, 85, card.scheme.ink)
    vehicle(card, start + 330, 520, 120, 0, card.scheme.accent)
    vehicle(card, start + 480, 520, 120, dice.randint(1, 4), card.scheme.accent)
    return card


TEMPLATES: tuple[Callable[[Dice], Card], ...] = (band, union, upright, back, paper, learner, modern, band)
