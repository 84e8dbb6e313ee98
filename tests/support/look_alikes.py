"""Pictures that are easily confused but are not copies: they differ in one small detail.

Each function returns a series of pictures (H, W, 3) uint8 RGB, drawn from a seed, no two of which are copies.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from MLPipeline.decoding.ReadImage import cv2

Series = list[np.ndarray]
INK = (20, 20, 90)


def lamps(seed: int, number: int = 12) -> Series:
    """Return a wall from nearby positions, with a green or a red lamp of equal brightness, and camera noise."""
    rng = np.random.default_rng(seed)
    wall = Image.fromarray(_smooth(rng, 12, 110))
    made = []
    for k, place in enumerate(rng.permutation(144).repeat(2)[:number].tolist()):  # each position with both lamps
        y, x = divmod(place, 12)
        picture = wall.crop((x, y, x + 96, y + 96))
        ImageDraw.Draw(picture).ellipse([40, 40, 52, 52], fill=((30, 170, 60), (225, 80, 70))[k % 2])
        made.append(_noisy(np.asarray(picture), rng, 4))
    return made


def shots(seed: int, number: int = 4) -> Series:
    """Return repeated shots of a static scene, which differ only in noise, stronger than JPEG artefacts."""
    rng = np.random.default_rng(seed)
    scene = _smooth(rng, 12, 96)
    return [_noisy(scene, rng, 4) for _ in range(number)]


def x_rays(seed: int, number: int = 12) -> Series:
    """Return two slightly shifted lungs, with a spot in every other picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :200]
    made = []
    for k in range(number):
        light = np.full((200, 200), 40.0)
        for centre in (65, 135):
            light += 150 * _spot(x, y, centre + rng.normal(0, 4), 100 + rng.normal(0, 4), 35, 65)
        if k % 2:
            light += 40 * _spot(x, y, *rng.integers(60, 140, 2), 9, 9)
        made.append(_noisy(np.repeat(light[:, :, None], 3, axis=2), rng, 3, grey=True))
    return made


def fields(seed: int, number: int = 5) -> Series:
    """Return a microscope field of stained cells, with a lesion at a different position in each picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :240]
    cells = np.full((240, 240, 3), 200.0)
    for _ in range(60):
        (left, top), radius = rng.uniform(0, 240, 2), rng.uniform(5, 12)
        cells -= _spot(x, y, left, top, radius, radius)[:, :, None] * [40, 90, 30]
    lesions = [(40 + 40 * k, 200 - 35 * k) for k in range(number)]
    return [_clipped(cells - 25 * _spot(x, y, *place, 7, 7)[:, :, None]) for place in lesions]


def forms(seed: int, number: int = 6) -> Series:
    """Return a scanned form with a tick in a different box in each picture."""
    rng = np.random.default_rng(seed)
    form = Image.new("RGB", (620, 877), (252, 252, 250))
    draw, font = ImageDraw.Draw(form), ImageFont.load_default(17)
    tops = [140 + 50 * k for k in range(number)]
    for top in tops:
        words = " ".join(str(word) for word in rng.integers(100, 9999, 5))
        draw.text((60, top), f"Question {words}", fill=(30, 30, 30), font=font)
        draw.rectangle([440, top, 454, top + 14], outline=(60, 60, 60))
    return [
        _drawn(form, lambda pen, top=top: pen.line([442, top + 7, 446, top + 12, 453, top + 1], fill=INK, width=2))
        for top in tops
    ]


def dashboards(seed: int) -> Series:
    """Return a dashboard whose lamp has a different colour of equal brightness in each picture."""
    rng = np.random.default_rng(seed)
    board = Image.fromarray(_smooth(rng, 3, 320, 200) // 4 + np.uint8(50))
    draw = ImageDraw.Draw(board)
    for centre in (80, 240):
        draw.ellipse([centre - 50, 50, centre + 50, 150], outline=(220, 220, 220), width=3)
        draw.line([centre, 100, centre + 30, 70], fill=(240, 80, 30), width=3)
    colours = [(202, 61, 61), (63, 134, 63), (65, 97, 255), (113, 113, 113)]
    return [
        _drawn(board, lambda pen, colour=colour: pen.ellipse([152, 30, 166, 44], fill=colour)) for colour in colours
    ]


def cards(seed: int, number: int = 8) -> Series:
    """Return playing cards that differ only in the digit in two corners."""
    del seed
    card = Image.new("RGB", (224, 224), (30, 110, 50))
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle([40, 10, 184, 214], 12, fill=(250, 250, 248))
    for x in (80, 112, 144):
        for y in (60, 100, 140, 170):
            draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill=(200, 30, 40))

    def number_it(pen: ImageDraw.ImageDraw, digit: int) -> None:
        for corner in ((48, 14), (160, 184)):
            pen.text(corner, str(digit), fill=(200, 30, 40), font=ImageFont.load_default(24))

    return [_drawn(card, lambda pen, digit=digit: number_it(pen, digit)) for digit in range(2, 2 + number)]


def dice(seed: int) -> Series:
    """Return a die on a table that shows a different number in each picture."""
    table = Image.fromarray(_smooth(np.random.default_rng(seed), 9, 128))
    ImageDraw.Draw(table).rounded_rectangle([44, 44, 84, 84], 6, fill=(240, 240, 235))
    corners = [(-1, -1), (1, 1), (-1, 1), (1, -1), (-1, 0), (1, 0)]

    def roll(pen: ImageDraw.ImageDraw, eyes: int) -> None:
        for x, y in ([(0, 0)] if eyes % 2 else []) + corners[: eyes // 2 * 2]:
            pen.ellipse([61 + 11 * x, 61 + 11 * y, 67 + 11 * x, 67 + 11 * y], fill=(20, 20, 20))

    return [_drawn(table, lambda pen, eyes=eyes: roll(pen, eyes)) for eyes in range(1, 7)]


def frames(seed: int, number: int = 6) -> Series:
    """Return a street from a fixed camera, with one car a few pixels further on in each picture."""
    rng = np.random.default_rng(seed)
    street = Image.fromarray(_noisy(_smooth(rng, 14, 320, 240), rng, 8))

    def drive(pen: ImageDraw.ImageDraw, x: int) -> None:
        pen.rectangle([x, 120, x + 16, 132], fill=(230, 210, 60))
        pen.ellipse([x + 2, 129, x + 7, 134], fill=(10, 10, 10))

    return [_drawn(street, lambda pen, x=x: drive(pen, x)) for x in range(20, 20 + 9 * number, 9)]


def signs(seed: int) -> Series:
    """Return a speed limit sign at a fixed position, with a different number in each picture."""
    road = Image.fromarray(_smooth(np.random.default_rng(seed), 9, 160))
    ImageDraw.Draw(road).ellipse([30, 30, 130, 130], fill=(245, 245, 245), outline=(200, 20, 30), width=10)

    def limit(pen: ImageDraw.ImageDraw, number: int) -> None:
        pen.text((80, 80), str(number), fill=(10, 10, 10), font=ImageFont.load_default(44), anchor="mm")

    return [_drawn(road, lambda pen, number=number: limit(pen, number)) for number in (20, 30, 50, 60, 80, 90)]


def objects(seed: int) -> Series:
    """Return a table with different objects of equal size and brightness at the same position."""
    table = Image.fromarray(_smooth(np.random.default_rng(seed), 6, 200))
    box = (85, 85, 115, 115)
    return [
        _drawn(table, lambda pen: pen.ellipse(box, fill=(30, 30, 30))),
        _drawn(table, lambda pen: pen.rectangle(box, fill=(30, 30, 30))),
        _drawn(table, lambda pen: pen.regular_polygon((100, 100, 18), 3, fill=(30, 30, 30))),
        np.asarray(table),
    ]


def mirrored(seed: int) -> Series:
    """Return a picture, its mirror images, and the picture rotated by 90 degrees."""
    picture = _smooth(np.random.default_rng(seed), 19, 120)
    return [picture, np.fliplr(picture), np.flipud(picture), np.rot90(picture)]


LOOK_ALIKES: dict[str, Callable[[int], Series]] = {
    function.__name__: function
    for function in (
        lamps, x_rays, fields, forms, dashboards, cards, dice, frames, signs, objects, mirrored,
    )
}  # fmt: skip


def _smooth(rng: np.random.Generator, cells: int, width: int, height: int = 0) -> np.ndarray:
    coarse = rng.integers(40, 210, (cells, cells, 3)).astype(np.float32)
    return _clipped(cv2.resize(coarse, (width, height or width), interpolation=cv2.INTER_CUBIC))


def _spot(x: np.ndarray, y: np.ndarray, left: float, top: float, width: float, height: float) -> np.ndarray:
    return np.exp(-(((x - left) / width) ** 2 + ((y - top) / height) ** 2))


def _noisy(picture: np.ndarray, rng: np.random.Generator, deviation: float, grey: bool = False) -> np.ndarray:
    shape = (*picture.shape[:2], 1) if grey else picture.shape
    return _clipped(picture + rng.normal(0, deviation, shape))


def _clipped(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture, 0, 255).astype(np.uint8)


def _drawn(picture: Image.Image, draw: Callable[[ImageDraw.ImageDraw], object]) -> np.ndarray:
    copy = picture.copy()
    draw(ImageDraw.Draw(copy))
    return np.asarray(copy)
