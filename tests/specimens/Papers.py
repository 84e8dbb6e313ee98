"""Other printed things: receipts, letters, tickets, playing cards, postcards, lists."""

from __future__ import annotations

import numpy as np

from tests.specimens.Card import Card
from tests.specimens.Dice import LAST_NAMES, TOWNS, Colour, Dice, Person
from tests.specimens.Ornaments import barcode, emblem, signature, star
from tests.specimens.Pictures import scenery

PAPERS = ((252, 252, 250), (246, 240, 226), (238, 242, 248), (250, 238, 240), (236, 246, 236))
GOODS = "Bread|Apples|Tea|Soap|Candles|Cheese|Twine|Honey|Lamp oil|Radishes|Eggs|Paper|Buttons".split("|")


def sheet(dice: Dice, width: int, height: int) -> Card:
    """Return an empty sheet of paper, white or tinted."""
    card = Card(dice, width, height, 0)
    card.pixels[:] = dice.pick(PAPERS)
    return card


def receipt(dice: Dice) -> Card:
    """Return a till receipt: goods and prices, a total, a bar code."""
    card, ink = sheet(dice, 520, 1000), dice.colour((0, 60), (20, 70))
    card.text(f"{dice.pick(LAST_NAMES)} Stores".upper(), 30, 40, 460, 50, ink, True, "centre")
    card.text(dice.pick(TOWNS), 30, 110, 460, 28, ink, align="centre")
    count, total = dice.randint(7, 12), 0
    for place in range(count):
        price, top = dice.randint(40, 1900), 180 + place * 46
        total += price
        card.text(dice.pick(GOODS), 40, top, 280, 28, ink)
        card.text(f"{price / 100:.2f}", 340, top, 140, 28, ink, align="right")
    below = 200 + count * 46
    card.line(((30, below), (490, below)), ink, 3)
    card.text("TOTAL", 40, below + 24, 220, 48, ink, True)
    card.text(f"{total / 100:.2f}", 270, below + 24, 210, 48, ink, True, "right")
    barcode(card, 70, below + 110, 380, min(100, 980 - below - 110))
    return card


def page(dice: Dice) -> Card:
    """Return a written page: a letter, or a form with boxes to tick."""
    card, person, ink = sheet(dice, 740, 1000), Person.invented(dice), dice.colour((0, 160), (20, 80))
    emblem(card, 110, 100, 50, dice.colour((120, 220), (70, 170)))
    card.text(
        dice.pick(
            ("Dear neighbour,", "INVOICE", "NOTICE", "MENU", "RECIPE", "Dear Sir or Madam,", "RULES", "HOMEWORK")
        ),
        190,
        75,
        480,
        50,
        ink,
        True,
    )
    form, style = dice.chance(0.4), dice.randint(8, 14)
    for place in range(18):
        top = 210 + place * 36
        if form:
            card.frame(70, top, 22, 22, ink, 2)
        if place % 6 < 5:
            card.box(
                110 if form else 70, top + 6, 600 * (0.55 + 0.4 * dice.random_sample()) - 40, style, (96, 96, 104), 3
            )
    card.text(f"{person.first} {person.last}", 420, 900, 260, 28, ink)
    signature(card, 420, 830, 220, 60, (30, 40, 120))
    return card


def note(dice: Dice) -> Card:
    """Return a handwritten shopping list on ruled or plain paper."""
    card, ink = sheet(dice, 700, 760), dice.colour((80, 220), (30, 120))
    card.pixels[:] = dice.colour((20, 130), (220, 255))
    for level in range(130, 740, 80):
        card.line(((0, level), (700, level)), (150, 170, 200), 2)
    card.line(((90, 0), (90, 760)), (210, 120, 120), 2)
    card.text(dice.pick(("to buy", "for friday", "remember")), 120, 45, 400, 60, ink, slant=0.3)
    for place in range(6):
        card.text(f"- {dice.pick(GOODS).lower()}", 120, 148 + place * 80, 480, 46, ink, slant=dice.uniform(0.15, 0.35))
    return card


def ticket(dice: Dice) -> Card:
    """Return an admission ticket with a stub behind a perforation."""
    card = Card(dice, 1000, 440, 14)
    show = dice.pick(("GRAND CONCERT", "CIRCUS VELDA", "FOOTBALL FINAL", "PUPPET THEATRE", "MOON CINEMA", "FAIR RIDE"))
    card.box(30, 30, 680, 380, card.scheme.accent, 20)
    card.text(show, 60, 80, 620, 92, card.scheme.contrast, True, "centre")
    card.text("ADMIT ONE", 60, 215, 620, 58, card.scheme.contrast, align="centre")
    card.text(
        f"{dice.date(2024, 2027, 0)}   {dice.randint(17, 22)}:30",
        60,
        320,
        620,
        40,
        card.scheme.contrast,
        align="centre",
    )
    for level in range(10, 440, 30):
        card.line(((745, level), (745, level + 16)), card.scheme.ink, 4)
    card.text(f"ROW {dice.digits('@')}", 770, 70, 200, 56, bold=True)
    card.text(f"SEAT {dice.randint(1, 60)}", 770, 160, 200, 48)
    barcode(card, 775, 260, 190, 140, square=dice.chance(0.5))
    return card


def boarding(dice: Dice) -> Card:
    """Return a boarding pass: from, to, gate, seat, bar code."""
    card, person = Card(dice, 1000, 460, 30), Person.invented(dice)
    card.box(0, 0, 1000, 96, card.scheme.accent)
    card.text("BOARDING PASS", 40, 26, 560, 50, card.scheme.contrast, True)
    card.text(f"{dice.pick(LAST_NAMES)} Air", 640, 30, 320, 40, card.scheme.contrast)
    for place in range(2):
        card.text(dice.digits("@@@"), 50 + place * 400, 150, 260, 100, bold=True)
    card.polygon(((330, 180), (330, 225), (410, 202)), card.scheme.accent)
    for place, (label, value) in enumerate(
        (("GATE", dice.digits("@#")), ("SEAT", dice.digits("1#@")), ("TIME", dice.digits("1#:#0")))
    ):
        card.text(label, 50 + place * 190, 300, 160, 24, card.scheme.accent)
        card.text(value, 50 + place * 190, 340, 160, 48, bold=True)
    card.text(f"{person.last} {person.first}".upper(), 50, 412, 560, 26)
    barcode(card, 720, 130, 240, 300, square=dice.chance(0.6))
    return card


def pip(card: Card, x: float, y: float, size: float, suit: int, colour: Colour) -> None:
    """Draw a diamond (0), heart (1), spade (2) or club (3) around (x, y)."""
    if suit == 0:
        card.polygon(((x, y - size), (x + size * 0.7, y), (x, y + size), (x - size * 0.7, y)), colour)
        return
    flip = -1 if suit == 1 else 1
    for side in (-1, 1):
        card.ellipse(x + side * size * 0.42, y + flip * size * 0.2, size * 0.46, size * 0.46, colour)
    if suit == 3:
        card.ellipse(x, y - size * 0.5, size * 0.46, size * 0.46, colour)
    else:
        card.polygon(
            (
                (x - size * 0.84, y + flip * size * 0.36),
                (x + size * 0.84, y + flip * size * 0.36),
                (x, y - flip * size),
            ),
            colour,
        )
    if suit > 1:
        card.polygon(((x, y), (x + size * 0.3, y + size), (x - size * 0.3, y + size)), colour)


def playing(dice: Dice) -> Card:
    """Return a playing card, two to ten, or an ace with one large pip."""
    card, suit = Card(dice, 640, 900, 44), dice.randint(4)
    card.pixels[:] = dice.pick(PAPERS)
    colour = (190, 30, 40) if suit < 2 else (24, 24, 30)
    rank = dice.randint(1, 11)
    words = "A" if rank == 1 else str(rank)
    for turned in (False, True):
        card.text(words, 30, 36, 110, 84, colour, True)
        pip(card, 74, 185, 40, suit, colour)
        card.pixels = np.ascontiguousarray(card.pixels[::-1, ::-1]) if not turned else card.pixels
    columns = (320,) if rank < 4 else (220, 420)
    rows = -(-rank // len(columns))
    for place in range(rank):
        x, y = columns[place % len(columns)], 150 + (place // len(columns) + 0.5) * 600 / rows
        pip(card, x, y, 150 if rank == 1 else 62, suit, colour)
    return card


def postcard(dice: Dice) -> Card:
    """Return a postcard's picture side with greetings, or its back with a stamp and an address."""
    card, person = sheet(dice, 1000, 660), Person.invented(dice)
    if dice.chance(0.6):
        card.paste(scenery(dice, 940, 600), 30, 30)
        town = dice.pick(TOWNS)
        for shift, colour in ((4, (30, 30, 50)), (0, (255, 255, 255))):  # a drop shadow, to be read on any sky
            card.text("Greetings from", 80 + shift, 70 + shift, 500, 44, colour, slant=0.3)
            card.text(town, 80 + shift, 140 + shift, 800, 90, colour, True)
        return card
    card.line(((520, 60), (520, 600)), (120, 120, 120), 3)
    card.paste(scenery(dice, 150, 190), 800, 50)
    card.frame(790, 40, 170, 210, (110, 90, 80), 4)
    for place, words in enumerate((f"{person.first} {person.last}", person.street, person.town)):
        card.text(words, 560, 350 + place * 80, 390, 42, (30, 40, 110), slant=0.25)
    for place in range(7):
        signature(card, 50, 90 + place * 70, 430, 40, (30, 40, 110))
    return card


def flyer(dice: Dice) -> Card:
    """Return a poster or coupon: one large word, a burst, a price."""
    card = Card(dice, 720, 960, 0)
    card.polygon(star(360, 470, 330), card.scheme.accent)
    card.text(
        dice.pick(("SALE", "FAIR", "JAZZ", "OPEN", "LOST CAT", "BAZAAR")),
        40,
        60,
        640,
        130,
        card.scheme.ink,
        True,
        "centre",
    )
    card.text(dice.pick(("-50%", "FREE", "2 FOR 1", "NEW")), 200, 440, 320, 80, card.scheme.contrast, True, "centre")
    card.text(dice.date(2024, 2027, 0), 40, 840, 640, 60, align="centre")
    return card
