"""How pictures of other proportions become squares: stretched, cropped to the centre, or padded with their mean."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.decoding.Fit import matching_parts
from MLPipeline.decoding.ReadImage import decode_image, resize
from MLPipeline.images.Fingerprint import make_rows


def thirds(width: int, height: int) -> np.ndarray:
    """Return a picture of three parts along its longer side: red, green, blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    longer = max(width, height) // 3
    for channel in range(3):
        part = slice(channel * longer, (channel + 1) * longer)
        pixels[(slice(None), part) if width >= height else (part, slice(None))][..., channel] = 240
    return pixels


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_crop_keeps_the_centre_undistorted(size: tuple[int, int]) -> None:
    square = resize(thirds(*size), (30, 30), "crop")
    assert square.shape == (30, 30, 3) and (square == (0, 240, 0)).all()


@pytest.mark.parametrize("is_wide", [True, False])
def test_pad_keeps_the_whole_picture_and_adds_its_mean(is_wide: bool) -> None:
    square = resize(thirds(90, 30) if is_wide else thirds(30, 90), (90, 90), "pad")
    square = square if is_wide else square.transpose(1, 0, 2)
    assert np.array_equal(square[30:60], thirds(90, 30))
    assert (square[:30] == 80).all() and (square[60:] == 80).all()


def test_stretch_fills_the_square_with_the_whole_picture() -> None:
    square = resize(thirds(90, 30), (30, 30))
    assert [square[15, column].argmax() for column in (3, 15, 27)] == [0, 1, 2]
    assert np.array_equal(square, resize(thirds(90, 30), (30, 30), "stretch"))


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (3000, 2), (50, 50), (64, 48)])
def test_any_proportions_become_a_square(size: tuple[int, int], fit: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert resize(pixels, (32, 32), fit).shape == (32, 32, 3)
    if size[0] == size[1]:
        assert np.array_equal(resize(pixels, (32, 32), fit), resize(pixels, (32, 32)))


def test_the_parts_have_the_same_proportions() -> None:
    assert matching_parts((30, 90), (45, 45), "crop")[0] == (slice(0, 30), slice(30, 60))
    assert matching_parts((30, 90, 3), (45, 45), "pad")[1] == (slice(15, 30), slice(0, 45))


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_inspection_makes_the_pixels_that_are_decoded_later(fit: str) -> None:
    data = encode_png(thirds(90, 60))
    _, (pixels,) = make_rows([data], 32, fit)
    assert pixels is not None and np.array_equal(pixels, decode_image(data, (32, 32), fit=fit).pixels)
