"""Random draws that stay the same on every machine, and the colours and words that cards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

Choice = TypeVar("Choice")
Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

# Invented: none of them is a place, an office or a person known to us.
FIRST_NAMES = (
    "Alda Bramwyn Cosima Dorvik Elowen Fenno Gisla Harbin Ilsabet Jorun Kestrel Lumo Maribeth Nolwin Orsolya Perrin "
    "Quilla Rovan Sunniva Tavish Umber Velda Wrenna Xanto Ysolde Zebedon"
).split()
LAST_NAMES = (
    "Ambleforth Brindlecott Carrowby Dunmarrow Eskelund Fallowmere Gantrill Hollinvale Ivespring Jasperley Kettlewick "
    "Lorimont Mossgrave Netherlane Oakhollow Pellbright Quenderby Rushbarrow Silverdun Thistleby Underhay Vantoller "
    "Willowmark Yarrowdale"
).split()
STATES = (
    "State of Northvale|State of Eastmarch|Republic of Caldera Bay|Province of Low Tarrow|Duchy of Wexmoor|"
    "Canton of Ambry|Isles of Sorrel|Territory of Grenmark|State of Hollowfen|Duchy of Orrin Reach"
).split("|")
FEDERATIONS = (
    "Federation of Calder|Union of Seven Isles|Commonwealth of Tarrow|United Marches|Republic of Ostermere|"
    "Confederation of Vell|League of Norrin|Federated Vales"
).split("|")
STREETS = "Lantern Row|Cobble Lane|Heron Street|Old Mill Walk|Tallow Road|Juniper Steps|Kite Hill|Ferry Wharf".split(
    "|"
)
TOWNS = "Port Ambry|Brackwater|Little Sorrel|Fennick|Upper Vell|Marrowgate|Tidesend|Lowhaven".split("|")
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()


class Dice(np.random.RandomState):
    """A random stream whose draws never change: numpy froze `RandomState` for good (NEP 19), unlike `Generator`."""

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Return one of `choices`."""
        return choices[self.randint(len(choices))]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.random_sample() < probability)

    def digits(self, pattern: str) -> str:
        """Return `pattern` with each `#` replaced by a digit and each `@` by a capital letter."""
        letters = {"#": "0123456789", "@": "ABCDEFGHJKLMNPRSTUVWXYZ"}
        return "".join(self.pick(letters[sign]) if sign in letters else sign for sign in pattern)

    def colour(self, saturation: tuple[int, int], value: tuple[int, int], hue: int | None = None) -> Colour:
        """Return a colour of any hue (0 to 179, or the one given) within these ranges (0 to 255)."""
        hsv = [self.randint(180) if hue is None else hue % 180, self.randint(*saturation), self.randint(*value)]
        red, green, blue = cv2.cvtColor(np.array([[hsv]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
        return red, green, blue

    def date(self, first_year: int, last_year: int, style: int) -> str:
        """Return a date written in one of four styles (0 to 3)."""
        day, month, year = self.randint(1, 29), self.randint(1, 13), self.randint(first_year, last_year + 1)
        return (
            f"{day:02d} {MONTHS[month - 1]} {year}",
            f"{year}-{month:02d}-{day:02d}",
            f"{month:02d}/{day:02d}/{year}",
            f"{day:02d}.{month:02d}.{year}",
        )[style]


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Return `first` with this share of it (0 to 1) replaced by `second`."""
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(first, second, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Person:
    """Nobody: an invented name, address and dates, as a card prints them."""

    first: str
    last: str
    street: str
    town: str
    born: str
    issued: str
    expires: str

    @classmethod
    def invented(cls, dice: Dice) -> Person:
        """Return a new person, whose dates share one style."""
        style = dice.randint(4)
        return cls(
            first=dice.pick(FIRST_NAMES),
            last=dice.pick(LAST_NAMES),
            street=f"{dice.randint(1, 99)} {dice.pick(STREETS)}",
            town=dice.pick(TOWNS),
            born=dice.date(1940, 2004, style),
            issued=dice.date(2012, 2024, style),
            expires=dice.date(2026, 2038, style),
        )


@dataclass(frozen=True)
class Scheme:
    """The colours of one card. Every class draws from the same schemes, so that colour does not tell the class."""

    paper: Colour
    tint: Colour  # the background runs from `paper` to `tint`
    ink: Colour
    accent: Colour
    contrast: Colour  # readable on `accent`

    @property
    def dark(self) -> bool:
        """Return whether the ink is lighter than the paper."""
        return sum(self.ink) > sum(self.paper)

    @classmethod
    def drawn(cls, dice: Dice) -> Scheme:
        """Return a scheme: mostly dark ink on light paper, sometimes the reverse."""
        hue = dice.randint(180)
        second = hue + (dice.randint(-15, 16) if dice.chance(0.6) else 90)
        if dice.chance(0.15):
            paper, tint = dice.colour((70, 190), (50, 110), hue), dice.colour((70, 190), (60, 140), second)
            return cls(paper, tint, (245, 243, 235), dice.colour((30, 130), (200, 250), second), (30, 30, 40))
        paper, tint = dice.colour((4, 50), (225, 255), hue), dice.colour((15, 110), (195, 245), second)
        ink = dice.colour((0, 160), (15, 75), second)
        return cls(paper, tint, ink, dice.colour((110, 230), (60, 165)), (250, 250, 246))
