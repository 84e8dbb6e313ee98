"""What copying does to a picture leaves it the same picture; what differs in one place is another one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.images.SamePicture import is_same_picture
from tests.support.duplicate_cases import duplicates_among, encode, listed, scene
from tests.support.look_alikes import LOOK_ALIKES, fields, forms, lamps, shots, x_rays

Change = Callable[[np.ndarray], np.ndarray]


def scaled(factor: float) -> Change:
    return lambda pixels: np.asarray(Image.fromarray(pixels).resize(
        (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)), Image.Resampling.BICUBIC
    ))  # fmt: skip


def compressed(quality: int) -> Change:
    def change(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return change


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    def change(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        rows = slice(round(height * top), height - round(height * bottom))
        return pixels[rows, round(width * left) : width - round(width * right)]

    return change


def brighter(factor: float) -> Change:
    return lambda pixels: np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))


def in_contrast(factor: float) -> Change:
    return lambda pixels: np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(factor))


CHANGES: dict[str, list[Change]] = {
    "scale": [scaled(0.5), scaled(0.77), scaled(1.5)],
    "quality": [compressed(30), compressed(60), compressed(95)],
    "crop": [cropped(0.03, 0.03, 0.03, 0.03), cropped(0.03, 0, 0, 0), cropped(0, 0.03, 0.03, 0)],
    "brightness": [brighter(0.8), brighter(1.2)],
    "contrast": [in_contrast(0.8), in_contrast(1.2)],
}
SINGLE = [(change,) for changes in CHANGES.values() for change in changes]
DOUBLE = [
    pair for first, second in itertools.permutations(CHANGES.values(), 2) for pair in itertools.product(first, second)
]
ORIGINALS = {
    "photograph": lambda: scene(3, 400, 300),
    "noisy scene": lambda: shots(1)[0],
    "lamp": lambda: lamps(2)[0],
    "X-ray": lambda: x_rays(3)[1],
    "microscope": lambda: fields(4)[0],
    "form": lambda: forms(5)[0],
}


def changed(pixels: np.ndarray, changes: tuple[Change, ...]) -> np.ndarray:
    for change in changes:
        pixels = change(pixels)
    return np.ascontiguousarray(pixels)


@pytest.mark.parametrize("kind", ORIGINALS)
def test_a_copy_is_the_same_picture_after_any_one_change(kind: str) -> None:
    original = compressed(92)(ORIGINALS[kind]())
    assert [
        number for number, each in enumerate(SINGLE) if not is_same_picture(original, changed(original, each))
    ] == []


@pytest.mark.parametrize("kind", ORIGINALS)
def test_nearly_every_copy_is_the_same_picture_after_two_changes(kind: str) -> None:
    original = compressed(92)(ORIGINALS[kind]())
    chosen = np.random.default_rng(0).choice(len(DOUBLE), 20, replace=False).tolist()
    same = [is_same_picture(original, changed(original, DOUBLE[number])) for number in chosen]
    assert sum(same) >= 19


def test_which_of_the_two_is_the_copy_makes_no_difference() -> None:
    original = scene(3)
    for changes in SINGLE:
        assert is_same_picture(changed(original, changes), original)


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_what_differs_in_one_place_is_another_picture(kind: str) -> None:
    series = LOOK_ALIKES[kind](7)
    same = [
        pair for pair in itertools.combinations(range(len(series)), 2) if is_same_picture(*(series[k] for k in pair))
    ]
    assert same == []


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_no_pair_is_found_among_look_alikes_saved_as_jpeg(tmp_path: Path, kind: str) -> None:
    assert listed(duplicates_among(tmp_path, *(encode(each, quality=85) for each in LOOK_ALIKES[kind](8)))) == set()


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_a_copy_among_look_alikes_is_found_and_nothing_else(tmp_path: Path, kind: str) -> None:
    series = LOOK_ALIKES[kind](9)
    copy = changed(series[1], (cropped(0.03, 0, 0, 0.02), brighter(1.1)))
    files = [*(encode(each, ".png") for each in series), encode(copy, quality=75)]
    assert listed(duplicates_among(tmp_path, *files)) == {(1, len(series))}


def test_a_grey_version_is_a_copy_but_a_lamp_without_colour_is_none() -> None:
    picture = scene(5)
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    assert is_same_picture(picture, grey) and is_same_picture(grey, picture)
    lit = grey.copy()
    lit[100:112, 80:92] = (202, 61, 61)
    off = np.repeat(cv2.cvtColor(lit, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    assert not is_same_picture(lit, off) and not is_same_picture(off, lit)


def test_shots_of_a_still_scene_that_differ_by_their_noise_are_no_copies(tmp_path: Path) -> None:
    assert listed(duplicates_among(tmp_path, *(encode(each, ".png") for each in shots(0)))) == set()


def test_frames_of_a_still_clip_with_little_noise_are_copies() -> None:
    still = shots(0)[0]
    rng = np.random.default_rng(1)
    one, other = (np.clip(still + rng.normal(0, 1.5, still.shape), 0, 255).astype(np.uint8) for _ in range(2))
    assert is_same_picture(one, other)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 3), (7, 5, 3), (640, 3, 3)])
def test_pictures_of_a_few_pixels_are_no_trouble(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert is_same_picture(picture, picture) in (True, False)
    assert is_same_picture(picture, np.full((50, 50, 3), 9, np.uint8)) in (True, False)
