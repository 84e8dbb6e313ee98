"""Social security cards of federations that do not exist: eight layouts, each varied by dice."""

from __future__ import annotations

from collections.abc import Callable

from tests.specimens.Card import Card
from tests.specimens.Dice import FEDERATIONS, Dice, Person, mixed
from tests.specimens.Ornaments import (
    barcode,
    chip,
    column,
    emblem,
    guilloche,
    rosette,
    seal,
    signature,
    stamp,
    wavy_border,
)

HEADINGS = ("SOCIAL SECURITY", "SOCIAL SECURITY", "SOCIAL SECURITY CARD", "NATIONAL SOCIAL SECURITY")
CLAUSES = (
    "THIS NUMBER HAS BEEN ESTABLISHED FOR",
    "ACCOUNT NUMBER ISSUED TO",
    "THE BEARER OF THIS NUMBER IS",
    "INSURED PERSON",
)


def number(dice: Dice) -> str:
    """Return a number that no one holds: area 000 or 666, or group 00 in the 900s, are never issued."""
    return dice.digits(dice.pick(("000-##-####", "666-##-####", "9##-00-####", "000 ## ####", "000-00-0000")))


def whose(card: Card, x: float, y: float, width: float, height: float, clause: bool = True) -> None:
    """Write the clause, the holder's name, and a signature over its line."""
    person, ink = Person.invented(card.dice), card.scheme.ink
    if clause:
        card.text(card.dice.pick(CLAUSES), x, y, width, height * 0.1, ink, align="centre")
    name = f"{person.first} {card.dice.digits('@')}. {person.last}".upper()
    card.text(name, x, y + height * 0.24, width, height * 0.2, ink, align="centre")
    line = y + height * 0.84
    signature(card, x + width * 0.2, line - height * 0.32, width * 0.55, height * 0.32, ink)
    card.line(((x + width * 0.1, line), (x + width * 0.9, line)), ink, 2)
    card.text("SIGNATURE", x, line + height * 0.04, width, height * 0.08, ink, align="centre")


def temple(dice: Dice) -> Card:
    """Return the classic: a heading arched between two columns, the number large below."""
    card = Card(dice, radius=dice.pick((0, 24)))
    accent = card.scheme.accent
    guilloche(card, accent, 0.25)
    card.frame(18, 18, 964, 594, accent, 5)
    for x in (45, 865):
        column(card, x, 150, 90, 430, accent)
    card.text(dice.pick(HEADINGS), 80, 40, 840, 84, accent, True, "centre", arch=dice.uniform(20, 55))
    card.text(dice.pick(FEDERATIONS).upper(), 160, 178, 680, 30, align="centre")
    seal(card, 500, 375, 150, mixed(card.scheme.tint, accent, 0.3))
    card.text(number(dice), 160, 245, 680, 76, card.scheme.ink, True, "centre")
    whose(card, 170, 350, 660, 240)
    return card


def certificate(dice: Dice) -> Card:
    """Return a card in a border of waves with a filled seal on one side."""
    card = Card(dice, radius=dice.pick((0, 20)))
    guilloche(card, card.scheme.accent, 0.2)
    wavy_border(card, card.scheme.accent, 36)
    card.text(dice.pick(FEDERATIONS).upper(), 90, 80, 820, 32, align="centre")
    card.text(dice.pick(HEADINGS), 80, 132, 840, 76, card.scheme.accent, True, "centre")
    left = dice.chance(0.5)
    seal(card, 190 if left else 810, 385, 110, card.scheme.accent, filled=True)
    start = 320 if left else 80
    card.text(number(dice), start, 245, 600, 70, card.scheme.ink, True, "centre")
    whose(card, start, 340, 600, 220)
    return card


def plastic(dice: Dice) -> Card:
    """Return a plastic card: heading in a band, a seal where others have a photograph, number and fields beside it."""
    card, person = Card(dice), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.25)
    bottom = dice.chance(0.3)
    card.box(0, 480 if bottom else 0, 1000, 150, card.scheme.accent)
    top = 510 if bottom else 28
    card.text(dice.pick(HEADINGS), 40, top, 920, 64, card.scheme.contrast, True, "centre")
    card.text(dice.pick(FEDERATIONS).upper(), 40, top + 76, 920, 24, card.scheme.contrast, align="centre")
    base, left = (30 if bottom else 175), dice.chance(0.5)
    seal(card, 170 if left else 830, base + 165, 120, card.scheme.accent, filled=dice.chance(0.6))
    start = 340 if left else 50
    card.text(number(dice), start, base + 30, 600, 74, card.scheme.ink, True)
    for place, (label, value) in enumerate(
        (("NAME", f"{person.first} {person.last}"), ("BORN", person.born), ("ISSUED", person.issued))
    ):
        card.text(label, start, base + 158 + place * 62, 130, 24, card.scheme.accent)
        card.text(value.upper(), start + 150, base + 150 + place * 62, 450, 36)
    if base == 175:
        signature(card, 360, 530, 350, 70, card.scheme.ink)
    return card


def upright(dice: Dice) -> Card:
    """Return an upright card: seal, heading on two lines, number, name."""
    card = Card(dice, 630, 1000, dice.pick((0, 28)))
    guilloche(card, card.scheme.accent, 0.25)
    if dice.chance(0.6):
        wavy_border(card, card.scheme.accent, 30)
    seal(card, 315, 205, 130, card.scheme.accent, filled=dice.chance(0.5))
    for place, word in enumerate(("SOCIAL", "SECURITY")):
        card.text(word, 75, 365 + place * 92, 480, 70, card.scheme.accent, True, "centre")
    card.text(dice.pick(FEDERATIONS).upper(), 75, 555, 480, 28, align="centre")
    card.text(number(dice), 75, 625, 480, 62, card.scheme.ink, True, "centre")
    whose(card, 75, 715, 480, 220)
    return card


def letter(dice: Dice) -> Card:
    """Return a letter with the card still attached along a dotted line, above or below the writing."""
    card, ink = Card(dice, 760, 1000, 0), Card(dice).scheme.ink
    card.pixels[:] = dice.pick(((250, 250, 248), (244, 240, 228), (236, 240, 246)))
    inner = dice.pick((temple, certificate, plastic))(dice)
    low = dice.chance(0.5)
    base = 90 if low else 560
    for place in range(9):
        card.box(80, base + 60 + place * 34, 600 - 220 * dice.random_sample() ** 2, 9, (110, 110, 116))
    emblem(card, 120, base, 34, ink)
    card.text(dice.pick(FEDERATIONS), 180, base - 12, 460, 26, ink)
    top = 500 if low else 40
    card.paste(inner.pixels, 40, top, width=680)
    for x in range(10, 750, 26):
        card.line(((x, top - 14 if low else top + 446), (x + 14, top - 14 if low else top + 446)), (120, 120, 120), 2)
    return card


def typed(dice: Dice) -> Card:
    """Return an old pasteboard card: stub and perforation, typed red number, punched hole, date stamp."""
    card = Card(dice, 1000, 580, 0)
    accent, red = card.scheme.accent, dice.pick(((170, 36, 40), (40, 50, 130), (20, 20, 24)))
    red = card.scheme.ink if card.scheme.dark else red
    card.frame(24, 24, 952, 532, accent, 6)
    card.frame(40, 40, 920, 500, accent, 2)
    card.text(dice.pick(HEADINGS), 70, 62, 860, 72, accent, True, "centre")
    card.text(dice.pick(FEDERATIONS).upper(), 70, 152, 860, 28, accent, align="centre")
    for place, sign in enumerate(number(dice)):
        card.text(sign, 205 + place * 54, 215 + dice.randint(-3, 4), 50, 70, red, True, "centre")
    whose(card, 120, 310, 600, 220)
    stamp(card, 730, 300, 220, Person.invented(dice).issued, (90, 60, 140))
    card.ellipse(70, 290, 17, 17, (70, 60, 55))
    return card


def flowered(dice: Dice) -> Card:
    """Return a card with rosettes in its corners and a pale emblem behind an arched heading."""
    card = Card(dice, radius=dice.pick((0, 30)))
    accent = card.scheme.accent
    for x, y in ((105, 105), (895, 105), (105, 525), (895, 525)):
        for radius, petals in ((92, 7), (74, 12), (50, 5)):
            card.line(rosette(radius, petals, 0.22) + (x, y), accent, 2, closed=True)
    card.line(((200, 60), (800, 60)), accent, 3)
    card.line(((200, 580), (800, 580)), accent, 3)
    emblem(card, 500, 320, 190, mixed(card.scheme.tint, accent, 0.18))
    card.text(dice.pick(HEADINGS), 190, 85, 620, 72, accent, True, "centre", arch=dice.uniform(0, 30))
    card.text(number(dice), 190, 220, 620, 84, card.scheme.ink, True, "centre")
    whose(card, 200, 330, 600, 230)
    return card


def chipped(dice: Dice) -> Card:
    """Return a sparse modern card: heading above, number across the middle, chip or bar code, no portrait."""
    card, person = Card(dice), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.22)
    emblem(card, 110, 105, 65, card.scheme.accent)
    card.text(dice.pick(HEADINGS), 210, 55, 750, 66, card.scheme.accent, True)
    card.text(dice.pick(FEDERATIONS).upper(), 210, 140, 750, 30)
    card.text(number(dice), 60, 255, 880, 92, card.scheme.ink, True, dice.pick(("left", "centre")))
    card.text(f"{person.first} {person.last}".upper(), 60, 400, 600, 44)
    card.text(f"BORN {person.born}", 60, 470, 460, 30)
    signature(card, 60, 520, 380, 80, card.scheme.ink)
    if dice.chance(0.5):
        chip(card, 810, 450)
    else:
        barcode(card, 690, 440, 260, 140, square=dice.chance(0.5))
    return card


TEMPLATES: tuple[Callable[[Dice], Card], ...] = (
    temple,
    certificate,
    plastic,
    upright,
    letter,
    typed,
    flowered,
    chipped,
)
