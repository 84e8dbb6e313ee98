"""Every format and colour mode a folder of images may hold: the same RGB pixels come out."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from MLPipeline.decoding.ReadImage import decode_image
from tests.support.picture_cases import distance, encode, photo, png_chunk, refusal, scene

EXIF_ORIENTATION = 0x112


@pytest.mark.parametrize(
    "kind, options, tolerance",
    [
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("AVIF", {"quality": 95}, 3),
    ],
)
def test_every_format_gives_the_same_rgb_pixels(kind, options, tolerance):
    picture = decode_image(encode(scene(), kind, **options))
    assert picture.pixels.dtype == np.uint8 and picture.pixels.flags.c_contiguous
    assert distance(picture.pixels, scene()) <= tolerance
    assert picture.note == ""


MODES = {
    "JPEG": "1 L CMYK",
    "PNG": "1 L P LA RGBA",
    "TIFF": "1 L P LA RGBA CMYK",
    "GIF": "1 L P LA RGBA",
    "BMP": "1 L P RGBA",
}


@pytest.mark.parametrize("kind, mode", [(kind, mode) for kind, modes in MODES.items() for mode in modes.split()])
def test_every_colour_mode_arrives_as_rgb(kind, mode):
    data = encode(Image.fromarray(scene()).convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert distance(decode_image(data).pixels, expected) <= 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_laid_on_white(kind):
    pixels = np.full((40, 60, 4), (200, 0, 40, 255), np.uint8)
    pixels[:20, :, 3] = 0  # transparent red, which a plain decode shows as red
    pixels[20:30, :, 3] = 128
    got = decode_image(encode(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))).pixels
    np.testing.assert_allclose(got[5, 30], (255, 255, 255), atol=2)
    np.testing.assert_allclose(got[25, 30], (227, 127, 147), atol=2)
    np.testing.assert_allclose(got[35, 30], (200, 0, 40), atol=3)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(kind):
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 20).reshape(8, 10), "P")
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    got = decode_image(encode(image, kind, transparency=1)).pixels
    assert [tuple(map(int, row[0])) for row in got[::2]] == [(0, 0, 0), (255, 255, 255), (0, 250, 0), (0, 0, 250)]


@pytest.mark.parametrize("depth_mode, key, scale", [("L", 100, 1), ("I;16", 3000, 257), ("1", 0, 1)])
def test_a_transparent_grey_becomes_white(depth_mode, key, scale):
    grey = np.array([[100, 50, 200]] * 4, np.uint8)
    if depth_mode == "1":
        image = Image.fromarray(grey >= 100)
        expected = [255, 255, 255]
    elif depth_mode == "L":
        image, expected = Image.fromarray(grey), [255, 50, 200]
    else:
        wide = grey.astype(np.uint16) * 257
        wide[:, 0] = key
        image, expected = Image.fromarray(wide), [255, 50, 200]
    assert decode_image(encode(image, "PNG", transparency=key)).pixels[0, :, 0].tolist() == expected


# ---- more than 8 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_16_bit_pixels_keep_their_brightness(extension, channels, bits):
    expected = scene()[:, :, :channels]
    deep = (expected.astype(np.float64) / 255 * (2**bits - 1)).round().astype(np.uint16)
    encoded = cv2.imencode(extension, deep if channels == 1 else deep[:, :, ::-1])[1].tobytes()
    picture = decode_image(encoded)
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1
    assert picture.note == ("" if bits == 16 else f"uint16 pixels: 0 shown as black, {2**bits - 1} as white")


def test_16_bit_pixels_of_1000_are_not_near_black():
    deep = np.full((8, 8), 1000, np.uint16)
    assert decode_image(cv2.imencode(".png", deep)[1].tobytes()).pixels.min() == 249


def test_16_bit_alpha_is_laid_on_white():
    deep = np.zeros((4, 4, 4), np.uint16)
    deep[:, :, 2], deep[:2, :, 3], deep[2:, :, 3] = 65535, 0, 65535
    got = decode_image(cv2.imencode(".png", deep)[1].tobytes()).pixels
    assert got[0, 0].tolist() == [255, 255, 255] and got[3, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "values, expected, noted",
    [
        ([0.0, 0.5, 1.0], [0, 128, 255], False),
        ([0.0, 100.0, 255.0], [0, 100, 255], True),
        ([-1.0, 0.0, 1.0], [0, 128, 255], True),
        ([0.0, 0.0005, 0.001], [0, 128, 255], True),
        ([0.0, np.nan, 1.0], [0, 0, 255], False),
        ([np.inf, -np.inf, 1.0], [255, 255, 255], False),
        ([-5.0, -5.0, -5.0], [0, 0, 0], True),
        ([0.0, 0.0, 0.0], [0, 0, 0], False),
        ([0.0, 3e38, -3e38], [128, 255, 0], True),
    ],
)
def test_float_tiff_has_a_sensible_brightness(values, expected, noted):
    pixels = np.tile(np.array(values, np.float32), (5, 1))
    picture = decode_image(encode(pixels, "TIFF"))
    assert picture.pixels[0, :, 0].tolist() == expected
    assert bool(picture.note) == noted


def test_a_float_tiff_without_one_number_is_refused():
    assert refusal(encode(np.full((4, 4), np.nan, np.float32), "TIFF")) == "not a number in any pixel"


def test_int32_tiff_is_read():
    picture = decode_image(encode(scene()[:, :, 0].astype(np.int32), "TIFF"))
    assert np.array_equal(picture.pixels[:, :, 1], scene()[:, :, 0]) and "255 as white" in picture.note


# ---- orientation, frames, sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    data = encode(scene(), kind, exif=exif)
    stored = Image.fromarray(scene())
    stored.getexif()[EXIF_ORIENTATION] = orientation
    assert distance(decode_image(data).pixels, np.asarray(ImageOps.exif_transpose(stored))) < 5


def test_orientation_is_applied_to_a_reduced_jpeg():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    got = decode_image(encode(scene(640, 320), "JPEG", exif=exif), (40, 80)).pixels
    assert distance(got, np.rot90(scene(80, 40), -1)) < 4


def test_a_damaged_exif_block_does_not_cost_the_picture():
    data = encode(scene(), "PNG")
    for exif in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"):
        changed = data[:33] + png_chunk(b"eXIf", exif) + data[33:]
        assert np.array_equal(decode_image(changed).pixels, scene())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("others", ["none", "before", "after", "too few"])
def test_an_orientation_counts_although_other_tags_are_damaged(order, others):
    entries = [struct.pack(f"{order}HHIHH", EXIF_ORIENTATION, 3, 1, 6, 0)]
    if others in ("before", "after"):  # a note of the camera's maker that an editor has cut off
        entries.insert(others == "after", struct.pack(f"{order}HHII", 0x9286, 7, 60_000, 90_000))
    number = struct.pack(f"{order}H", 40 if others == "too few" else len(entries))
    exif = (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08") + number + b"".join(entries)
    plain, upright = encode(scene(), "PNG"), np.rot90(scene(), -1)
    png = plain[:33] + png_chunk(b"eXIf", exif) + plain[33:]
    assert np.array_equal(decode_image(png).pixels, upright)
    assert np.array_equal(decode_image(encode(scene(), "WEBP", lossless=True, exif=exif)).pixels, upright)
    assert distance(decode_image(encode(scene(), "JPEG", quality=95, exif=b"Exif\0\0" + exif)).pixels, upright) < 4


@pytest.mark.parametrize(
    "kind, options, note",
    [
        ("GIF", {}, "first of 3 frames"),
        ("WEBP", {"lossless": True}, "first of 3 frames"),
        ("PNG", {}, "first of 3 frames"),
        ("TIFF", {}, "first of 3 pages"),
        ("AVIF", {"quality": 95}, "first of 3 frames"),
    ],
)
def test_of_several_frames_the_first_is_used_and_noted(kind, options, note):
    others = [Image.fromarray(255 - scene()), Image.fromarray(scene() // 2)]
    picture = decode_image(encode(scene(), kind, save_all=True, append_images=others, **options))
    assert picture.note == note
    assert distance(picture.pixels, scene()) < 8


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_extreme_shapes_are_read_and_resized(kind, shape):
    data = encode(np.full((*shape, 3), 77, np.uint8), kind)
    assert decode_image(data).pixels.shape == (*shape, 3)
    resized = decode_image(data, (200, 100)).pixels
    assert resized.shape == (100, 200, 3) and np.abs(resized.astype(int) - 77).max() <= 3


@pytest.mark.parametrize("size", [(32, 32), (200, 200), (48, 128), (192, 16)])
def test_resizing_takes_width_and_height_and_ignores_proportions(size):
    got = decode_image(encode(scene(), "PNG"), size).pixels
    assert distance(got, scene(*size)) < 4


def test_shrinking_averages_even_where_the_other_side_grows():
    stripes = np.zeros((10, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    got = decode_image(encode(stripes, "PNG"), (20, 40)).pixels
    assert got.shape == (40, 20, 3) and np.abs(got.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("scale, target", [(2, 100), (4, 60), (8, 30), (1, 200)])
def test_a_reduced_decode_stays_close_to_the_full_one(scale, target):
    data = photo()
    full = cv2.resize(decode_image(data).pixels, (target, target), interpolation=cv2.INTER_AREA)
    assert 240 // target >= scale
    assert distance(decode_image(data, (target, target)).pixels, full) < 3
