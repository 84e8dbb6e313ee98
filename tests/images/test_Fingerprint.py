"""What a fingerprint says of an image is so, whatever kind of file it came in."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from MLPipeline.decoding.ReadImage import decode_image
from MLPipeline.files.Cache import digest
from MLPipeline.images.Fingerprint import (
    ANIMATED,
    DEEP,
    FINGERPRINT,
    GREY,
    KINDS,
    NOTED,
    TRANSPARENT,
    UNREADABLE,
    make_rows,
)
from tests.support.duplicate_cases import CHANGES, encode, row_of, scene


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain(colour: tuple[int, ...] | int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (60, 40), colour)


def fingerprint(data: bytes) -> np.ndarray:
    return row_of(data)["print"]


def bits(one: np.ndarray, other: np.ndarray, name: str) -> int:
    return int(one[name] ^ other[name]).bit_count()


def test_an_image_has_the_same_row_in_any_company():
    files = [encode(scene(0)), b"", *(encode(scene(k, 60 + k, 50)) for k in range(5)), encode(scene(6) * 0, ".png")]
    rows, _ = make_rows(iter(files))
    assert (rows == np.array([row_of(data) for data in files])).all() and len(set(rows["print"]["phash"])) > 5


@pytest.mark.parametrize(
    "data",
    [  # decoded at a half for the fingerprint, the large photo is too coarse for 400 and too fine for 16 and 64
        encode(scene(0, 900, 700)),
        encode(scene(0, 30, 20), ".png"),
        encode(scene(0))[:-2],
    ],
)
def test_pixels_are_those_of_the_reader(data):
    for side in (16, 64, 200, 400):
        (pixels,) = make_rows([data], side)[1]
        assert np.array_equal(pixels, decode_image(data, (side, side)).pixels)
    assert make_rows([data, b""])[1] == [None, None] == make_rows([b"", b"x"], 64)[1]


def test_an_image_takes_65_bytes():
    assert FINGERPRINT.itemsize == 65


def test_a_photo_is_described():
    data = encode(scene(0))
    row = row_of(data)
    found, small = row["print"], scene(0).reshape(-1, 3).mean(axis=0)
    assert found["digest"].tobytes() == digest(data) and found["size"] == len(data)
    assert (found["width"], found["height"]) == (180, 240) and KINDS[found["kind"]] == "JPEG"
    assert (found["orientation"], found["channels"], found["flags"], row["note"]) == (1, 3, 0, b"")
    assert np.abs(found["colour"] - small).max() < 2
    assert abs(found["brightness"] - small @ [0.299, 0.587, 0.114]) < 2
    assert found["shadow"] < found["brightness"] < found["light"] and found["contrast"] > 20
    assert abs(row["thumbnail"].mean() - found["brightness"]) <= 1 and row["thumbnail"].shape == (64, 64)


@pytest.mark.parametrize(
    "image, form, channels, flags",
    [
        (plain((200, 30, 30)), "PNG", 3, 0),
        (plain(120, "L"), "PNG", 1, GREY),
        (plain(120, "L"), "JPEG", 1, GREY),
        (plain((120, 120, 120)), "JPEG", 3, GREY),
        (plain((10, 200, 30, 0), "CMYK"), "JPEG", 4, 0),
        (plain((200, 30, 30, 255), "RGBA"), "PNG", 4, 0),
        (plain((200, 30, 30, 128), "RGBA"), "PNG", 4, TRANSPARENT),
        (plain((200, 30, 30)).convert("P"), "GIF", 3, 0),
        (Image.fromarray(np.full((40, 60), 40000, np.uint16)), "PNG", 1, DEEP | GREY),
        (plain((200, 30, 30)), "BMP", 3, 0),
        (plain((200, 30, 30)), "WEBP", 3, 0),
        (plain((200, 30, 30)), "TIFF", 3, 0),
    ],
)
def test_what_the_file_is(image, form, channels, flags):
    found = fingerprint(saved(image, form))
    assert KINDS[found["kind"]].upper() == form and (found["width"], found["height"]) == (60, 40)
    assert found["channels"] == channels and found["flags"] == flags


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_photo_is_told_by_its_upright_size(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = fingerprint(saved(plain((200, 30, 30)), form, exif=exif))
    assert found["orientation"] == orientation
    assert (found["width"], found["height"]) == ((40, 60) if orientation == 6 else (60, 40))


def test_what_is_odd_about_a_file_is_kept():
    frames = [plain((200, 30, 30)), plain((30, 200, 30))]
    row = row_of(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert row["print"]["flags"] == ANIMATED | NOTED and row["note"] == b"first of 2 frames"
    row = row_of(encode(scene(0))[:-2])
    assert row["print"]["flags"] == NOTED and row["note"] == b"end marker missing"


@pytest.mark.parametrize("data, reason", [(b"", b"empty file"), (encode(scene(0))[:900], b"truncated JPEG")])
def test_an_unreadable_file_has_a_reason_and_nothing_else(data, reason):
    row = row_of(data)
    assert row["print"]["flags"] == UNREADABLE and row["note"] == reason
    assert row["print"]["digest"].tobytes() == digest(data) and row["print"]["size"] == len(data)
    rest = [name for name in FINGERPRINT.names if name not in ("digest", "size", "flags")]
    assert not any(np.any(row["print"][name]) for name in rest) and not row["thumbnail"].any()


def test_dark_light_and_blank_pictures_are_told():
    dark, light, blank = (
        fingerprint(encode(each, ".png")) for each in (scene(1) // 8, 230 + scene(1) // 12, scene(1) * 0)
    )
    assert dark["light"] < 35 and light["shadow"] > 225
    assert (blank["contrast"], blank["light"], blank["sharpness"], blank["border_contrast"]) == (0, 0, 0, 0)


def test_sharpness_falls_when_a_picture_is_blurred():
    noisy = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    sharp = Image.fromarray(noisy)
    soft = sharp.resize((30, 30), Image.Resampling.BOX).resize((300, 300), Image.Resampling.BICUBIC)
    assert fingerprint(saved(sharp, "PNG"))["sharpness"] > 20 * fingerprint(saved(soft, "PNG"))["sharpness"]


def test_a_frame_shows_in_the_border_and_nowhere_else():
    pixels = scene(2, 128, 128)
    pixels[:4] = pixels[-4:] = pixels[:, :4] = pixels[:, -4:] = (250, 10, 20)
    found = fingerprint(encode(pixels, ".png"))
    assert np.abs(found["border"].astype(int) - (250, 10, 20)).max() <= 2 and found["border_contrast"] == 0
    assert np.abs(found["colour"].astype(int) - found["border"]).max() > 50


@pytest.mark.parametrize("change", CHANGES)
def test_hashes_change_little_with_the_file_and_much_with_the_picture(change):
    one, same, other = (fingerprint(data) for data in (encode(scene(3)), CHANGES[change](scene(3)), encode(scene(4))))
    assert bits(one, same, "phash") <= 16 and bits(one, same, "dhash") <= 16
    assert bits(one, other, "phash") > 16 and bits(one, other, "dhash") > 16
