"""Cards that share a portrait, a seal, a border or a number with the documents, and yet are others."""

from __future__ import annotations

from tests.specimens.Card import Card
from tests.specimens.Dice import LAST_NAMES, TOWNS, Dice, Person
from tests.specimens.Ornaments import barcode, chip, emblem, guilloche, seal, signature, wavy_border
from tests.specimens.Portrait import portrait


def badge(dice: Dice) -> Card:
    """Return an upright staff badge with a slot for the lanyard."""
    card, person = Card(dice, 630, 1000), Person.invented(dice)
    card.box(0, 0, 630, 190, card.scheme.accent)
    card.box(245, 26, 140, 30, (70, 66, 62), 15)
    firm = f"{dice.pick(LAST_NAMES)} {dice.pick(('Labs', 'Works', 'Hotels', 'Air', 'Foods'))}"
    card.text(firm, 40, 95, 550, 54, card.scheme.contrast, True, "centre")
    card.paste(portrait(dice, 320, 400), 155, 225)
    card.text(person.first.upper(), 40, 660, 550, 84, card.scheme.ink, True, "centre")
    card.text(person.last, 40, 765, 550, 44, card.scheme.ink, align="centre")
    role = dice.pick(("VISITOR", "STAFF", "CREW", "PRESS", "CONTRACTOR", "VOLUNTEER"))
    card.box(0, 850, 630, 150, card.scheme.accent)
    card.text(role, 40, 890, 550, 66, card.scheme.contrast, True, "centre")
    return card


def membership(dice: Dice) -> Card:
    """Return a club's or school's card with a portrait."""
    card, person = Card(dice), Person.invented(dice)
    if dice.chance(0.5):
        guilloche(card, card.scheme.accent, 0.25)
    club = dice.pick(
        ("GYM MEMBER", "SWIM CLUB", "STUDENT CARD", "CHESS CLUB", "MUSEUM PASS", "ROWING CLUB", "BUS PASS")
    )
    left = dice.chance(0.5)
    card.text(club, 50 if left else 380, 55, 570, 92, card.scheme.accent, True)
    card.paste(portrait(dice, 270, 330), 670 if left else 60, 60)
    card.text(f"{person.first} {person.last}", 50 if left else 380, 220, 570, 56)
    card.text(dice.digits("MEMBER ####"), 50 if left else 380, 310, 500, 36)
    card.box(0, 430, 1000, 200, card.scheme.accent)
    barcode(card, 50, 460, 500, 140)
    card.text(f"UNTIL {dice.randint(2026, 2032)}", 600, 500, 340, 56, card.scheme.contrast, True)
    return card


def library(dice: Dice) -> Card:
    """Return a library's or shop's card: a name, a wide bar code, no portrait."""
    card, person = Card(dice), Person.invented(dice)
    card.text(dice.pick(TOWNS).upper(), 60, 50, 880, 44, card.scheme.accent)
    card.text(
        dice.pick(("PUBLIC LIBRARY", "TOWN LIBRARY", "LIBRARY CARD", "TOY LIBRARY")),
        60,
        125,
        880,
        96,
        card.scheme.ink,
        True,
    )
    for place in range(5):
        card.box(
            700 + place * 48, 270 - 14 * (place % 3), 40, 130 + 14 * (place % 3), dice.colour((80, 200), (80, 210)), 4
        )
    card.text(f"{person.first} {person.last}", 60, 290, 580, 52)
    barcode(card, 60, 420, 880, 150)
    return card


def bank(dice: Dice) -> Card:
    """Return a payment card of no bank, all zeros."""
    card, person = Card(dice, scheme=None), Person.invented(dice)
    if dice.chance(0.6):
        guilloche(card, card.scheme.accent, 0.4)
    card.text(f"{dice.pick(LAST_NAMES)} Bank", 60, 50, 600, 66, card.scheme.accent, True)
    chip(card, 90, 190)
    card.text("0000  0000  0000  0000", 70, 330, 860, 78, bold=True)
    card.text("VALID THRU 00/00", 430, 450, 400, 32)
    card.text(f"{person.first} {person.last}".upper(), 70, 530, 560, 46)
    card.ellipse(800, 540, 58, 58, card.scheme.accent)
    card.ellipse(875, 540, 58, 58, dice.colour((100, 220), (120, 230)))
    return card


def diploma(dice: Dice) -> Card:
    """Return a certificate: border, seal and signature like a social security card's, for swimming or baking."""
    card, person = Card(dice, 1000, 720, 0), Person.invented(dice)
    guilloche(card, card.scheme.accent, 0.15)
    wavy_border(card, card.scheme.accent, 40)
    card.text("CERTIFICATE", 110, 90, 780, 96, card.scheme.accent, True, "centre", arch=dice.uniform(0, 35))
    feat = dice.pick(("OF SWIMMING", "OF BREAD BAKING", "OF MERIT IN CHESS", "FOR BEST PUMPKIN", "OF KITE BUILDING"))
    card.text(feat, 150, 235, 700, 46, align="centre")
    card.text(f"{person.first} {person.last}", 150, 335, 700, 66, align="centre", slant=0.25)
    card.line(((220, 420), (780, 420)), card.scheme.ink, 2)
    seal(card, 240 if dice.chance(0.5) else 500, 550, 95, card.scheme.accent, filled=True)
    signature(card, 610, 490, 250, 90, card.scheme.ink)
    return card


def business(dice: Dice) -> Card:
    """Return a business card: a sign, a name, a trade, ways to write."""
    card, person = Card(dice, 1000, 570, dice.pick((0, 0, 20))), Person.invented(dice)
    centred = dice.chance(0.4)
    trade = dice.pick(("Gardener", "Piano Tuner", "Bookbinder", "Clockmaker", "Bakery", "Boat Builder"))
    emblem(card, 500 if centred else 800, 130 if centred else 285, 90 if centred else 130, card.scheme.accent)
    width = 880 if centred else 560
    lines = (
        (f"{person.first} {person.last}", 245, 66, True),
        (trade, 335, 40, False),
        ("555-0100", 430, 28, False),
        (f"{person.first.lower()}@example.com", 480, 28, False),
    )
    for words, top, size, bold in lines:
        shade = card.scheme.accent if size == 40 else card.scheme.ink
        card.text(words, 60, top - (0 if centred else 110), width, size, shade, bold, "centre" if centred else "left")
    return card


def gift(dice: Dice) -> Card:
    """Return a gift or loyalty card: a ribbon with a bow, or a grid of stars to punch."""
    card = Card(dice)
    if dice.chance(0.5):
        ribbon = dice.colour((120, 230), (140, 230))
        card.box(240, 0, 70, 630, ribbon)
        card.box(0, 280, 1000, 70, ribbon)
        for side in (-1, 1):
            card.polygon(((275, 315), (275 + side * 150, 225), (275 + side * 150, 405)), ribbon)
            card.ellipse(275, 315, 32, 32, card.scheme.contrast)
        card.text("GIFT CARD", 400, 100, 540, 96, card.scheme.ink, True, "centre")
        card.text(dice.pick(("25", "50", "100", "10")), 400, 420, 540, 130, card.scheme.accent, True, "centre")
        return card
    card.text(
        dice.pick(("COFFEE CARD", "PIZZA CLUB", "10TH CUP FREE")), 50, 50, 900, 90, card.scheme.accent, True, "centre"
    )
    full = dice.randint(1, 9)
    for place in range(10):
        x, y = 130 + place % 5 * 185, 300 + place // 5 * 190
        card.ellipse(x, y, 74, 74, card.scheme.accent, -1 if place < full else 4)
        if place < full:
            emblem(card, x, y, 40, card.scheme.contrast)
    return card


def blank(dice: Dice) -> Card:
    """Return a card with next to nothing on it: stripes, a magnetic band, or a lone emblem."""
    card = Card(dice)
    kind = dice.randint(3)
    if kind == 0:
        card.box(0, 70, 1000, 120, (34, 32, 34))
        card.box(60, 270, 620, 90, (240, 238, 230))
    elif kind == 1:
        for place in range(0, 1400, 160):
            card.polygon(((place, 0), (place + 70, 0), (place - 330, 630), (place - 400, 630)), card.scheme.accent)
    else:
        guilloche(card, card.scheme.accent, 0.5)
        emblem(card, 500, 315, 150, card.scheme.accent)
    return card
