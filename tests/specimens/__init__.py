"""Specimen documents, drawn: nobody's licences and cards, and other things, as if photographed.

    python -m tests.specimens --output Data --seed 0

writes 64 pictures for each class. Every person, number, place and office on them is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.specimens import Licence, LookAlikes, Papers, Pictures, SocialSecurity
from tests.specimens.Card import Card, Image
from tests.specimens.Dice import Dice
from tests.specimens.Encode import Frame, encode
from tests.specimens.Scene import photograph

COUNT = 64  # pictures a class
OTHERS = (
    LookAlikes.badge, Papers.receipt, LookAlikes.membership, Pictures.landscape, LookAlikes.diploma, Papers.playing,
    LookAlikes.library, Papers.ticket, LookAlikes.bank, Papers.page, LookAlikes.business, Pictures.mug, LookAlikes.gift,
    Papers.boarding, LookAlikes.membership, Papers.postcard, LookAlikes.blank, Pictures.keys, Papers.note, Papers.flyer,
    LookAlikes.badge, Pictures.leaves, LookAlikes.diploma, Pictures.painting,
)  # fmt: skip
TEMPLATES: Mapping[str, tuple[Callable[[Dice], Card], ...]] = {
    "driving_license": Licence.TEMPLATES,
    "social_security": SocialSecurity.TEMPLATES,
    "others": OTHERS,
}
CLASSES = tuple(TEMPLATES)


def frame_of(class_name: str, index: int, seed: int = 0) -> Frame:
    """Return the frame of a class's picture: the same 64 for each class, in an order of its own."""
    order = Dice([seed, CLASSES.index(class_name)]).permutation(COUNT)
    return Frame.numbered(int(order[index]), seed)


def draw(class_name: str, index: int, seed: int = 0) -> Image:
    """Return picture `index` (0 to 63) of a class, `(H, W, 3)` RGB uint8, upright; equal arguments, equal pixels."""
    dice = Dice([seed, CLASSES.index(class_name), index])
    templates = TEMPLATES[class_name]
    card = templates[index % len(templates)](dice)
    if class_name != "others" or templates[index % len(templates)].__module__ != Pictures.__name__:
        card.mark_specimen()
    return photograph(card, frame_of(class_name, index, seed), dice)


def file_name(class_name: str, index: int, seed: int = 0) -> str:
    """Return the name of a picture's file in its class folder: its number and its format."""
    return f"{index + 1:03d}.{frame_of(class_name, index, seed).format}"


def write(output: Path, seed: int = 0) -> None:
    """Write all pictures to `output/<class>/`."""
    for class_name in CLASSES:
        folder = output / class_name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(COUNT):
            data = encode(draw(class_name, index, seed), frame_of(class_name, index, seed))
            (folder / file_name(class_name, index, seed)).write_bytes(data)
