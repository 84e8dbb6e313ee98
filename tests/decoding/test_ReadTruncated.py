"""Files whose pixels end early although the file is closed are refused; whole files with junk around them are used."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from MLPipeline.decoding.ReadHeader import read_header
from MLPipeline.decoding.ReadImage import UnreadableImage, decode_image
from MLPipeline.export.StandaloneReader import Refused, decode
from tests.support.format_cases import tiff
from tests.support.paths import INPUTS
from tests.support.picture_cases import encode, png_chunk, refusal, scene

END = b"\xff\xd9"
NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
GRAINY = np.clip(scene(160, 120) // 2 + np.random.default_rng(1).integers(0, 60, (120, 160, 3)), 0, 255).astype(
    np.uint8
)
FLAT = np.full((120, 160, 3), 255, np.uint8)
FLAT[30:60, 40:100] = GRAINY[30:60, 40:100]

CODINGS: dict[str, dict] = {
    "baseline": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "restart-rows": {"restart_marker_rows": 1},
}
PICTURES = {"grainy": GRAINY, "smooth": scene(160, 120), "flat": FLAT}
JPEGS = [(picture, coding) for picture in PICTURES for coding in CODINGS]

# What follows the place where the data of `whole` ends; `cut` is that place.
ENDINGS: dict[str, Callable[[bytes, int], bytes]] = {
    "end marker": lambda whole, cut: whole[:cut] + END,
    "nothing": lambda whole, cut: whole[:cut],
    "zeros": lambda whole, cut: whole[:cut] + bytes(len(whole) - cut),
    "zeros and end marker": lambda whole, cut: whole[:cut] + bytes(len(whole) - cut - 2) + END,
    "ones": lambda whole, cut: whole[:cut] + b"\xff" * (len(whole) - cut),
    "a whole file": lambda whole, cut: whole[:cut] + whole,
    "end marker and a whole file": lambda whole, cut: whole[:cut] + END + whole,
    "text and end marker": lambda whole, cut: whole[:cut] + b"<html>not found</html>" * 20 + END,
}
AROUND: dict[str, Callable[[bytes], bytes]] = {
    "zeros behind": lambda whole: whole + bytes(500),
    "a second file behind": lambda whole: whole + whole,
    "text before the end": lambda whole: whole[:-2] + b"abc" * 50 + END,
    "zeros before the end": lambda whole: whole[:-2] + bytes(100) + END,
    "ones before the end": lambda whole: whole[:-2] + b"\xff" * 100 + END,
    "other markers before the end": lambda whole: whole[:-2] + b"ab\xff\x3c" * 20 + END,
    "no end marker": lambda whole: whole[:-2],
    "no end marker and a second file": lambda whole: whole[:-2] + whole,
}


def jpeg(picture: str, coding: str) -> bytes:
    return encode(PICTURES[picture], "JPEG", quality=85, **CODINGS[coding])


@pytest.mark.parametrize("picture, coding", JPEGS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_jpeg_that_ends_early_is_truncated_whatever_follows(picture, coding, ending, capfd):
    whole = jpeg(picture, coding)
    body = read_header(whole).body + 14
    for share in (0.1, 0.5, 0.9):
        cut = body + int((len(whole) - 2 - body) * share)
        assert "truncated" in refusal(ENDINGS[ending](whole, cut)), share
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("picture, coding", JPEGS)
@pytest.mark.parametrize("around", AROUND)
def test_junk_around_a_whole_jpeg_is_harmless(picture, coding, around, capfd):
    whole = jpeg(picture, coding)
    if (picture, coding, around) == ("flat", "progressive", "zeros before the end"):
        assert "truncated" in refusal(AROUND[around](whole))  # its last pixels are coded as zeros too: cannot be told
        return
    assert np.array_equal(decode_image(AROUND[around](whole)).pixels, decode_image(whole).pixels)
    assert decode_image(whole).note == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("coding", ["baseline", "optimized", "restarts", "restart-rows"])
@pytest.mark.parametrize("length", [64, 200, 512, 2000])
@pytest.mark.parametrize("filling", [b"\x00", b"\xff"])
def test_a_jpeg_with_a_hole_is_truncated(coding, length, filling):
    whole = jpeg("grainy", coding)
    for share in (0.1, 0.4, 0.7):
        start = read_header(whole).body + 14 + int(len(whole) * share)
        if start + length < len(whole) - 2:
            assert "truncated" in refusal(whole[:start] + filling * length + whole[start + length :])


@pytest.mark.parametrize("number", [0, 1, 2, -1])
@pytest.mark.parametrize("replacement", [b"", b"\x00\x00"])
def test_a_jpeg_without_one_of_its_restart_markers_is_truncated(number, replacement):
    whole = jpeg("grainy", "restarts")
    body = read_header(whole).body
    place = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole) if found.start() > body][number]
    assert "truncated" in refusal(whole[:place] + replacement + whole[place + 2 :])


def test_a_progressive_jpeg_cut_between_two_scans_is_truncated():
    whole = jpeg("grainy", "progressive")
    places = [
        place for place in range(read_header(whole).body + 1, len(whole)) if whole[place : place + 2] == b"\xff\xc4"
    ]
    assert len(places) > 3
    for place in places:
        assert "truncated" in refusal(whole[:place] + END)


def test_a_tall_jpeg_that_lacks_under_one_percent_of_its_rows_is_used_and_noted():
    tall = np.random.default_rng(0).integers(0, 256, (3200, 24, 3), dtype=np.uint8)
    whole = encode(tall, "JPEG", quality=80, subsampling=0)
    picture = decode_image(whole[:-20] + END)
    assert picture.note == "truncated: the last 8 of 3200 rows are missing"
    assert np.array_equal(picture.pixels[:-16], decode_image(whole).pixels[:-16])
    assert "truncated" in refusal(whole[: int(len(whole) * 0.98)] + END)


@pytest.mark.parametrize("name", ["cut-but-closed.jpg", "cut-then-a-whole-file.jpg"])
def test_the_shared_jpegs_that_end_early_are_truncated(name, capfd):
    assert refusal(shared(name)) == "truncated JPEG"
    assert capfd.readouterr() == ("", "")


def test_the_shared_jpeg_with_junk_equals_the_whole_one():
    whole = cv2.imdecode(np.frombuffer(shared("whole.jpg"), np.uint8), cv2.IMREAD_COLOR_RGB)
    for name in ("whole.jpg", "junk-before-the-end.jpg"):
        assert np.array_equal(decode_image(shared(name)).pixels, whole)


def test_the_shared_files_that_hold_one_picture_give_it():
    grey, rgb = (decode_image(shared(name)).pixels.astype(int) for name in ("grey.png", "rgb.png"))
    for name in ("grey-white-is-zero-8.tif", "grey-white-is-zero-16.tif"):
        assert np.abs(decode_image(shared(name)).pixels - grey).max() <= 1
    for name in ("rgb-32.bmp", "rgb-32-bitfields.bmp", "rgb-near-infrared.tif", "five-bands.tif"):
        assert np.array_equal(decode_image(shared(name)).pixels, rgb)
    assert decode_image(shared("rgb-near-infrared.tif")).note == "4 bands: the first 3 are used"
    assert decode_image(shared("five-bands.tif")).note == "5 bands: the first 3 are used"


def shared(name: str) -> bytes:
    path = INPUTS / "pixels" / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not on this machine")
    return path.read_bytes()


# ---- other formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["stream cut", "rows missing", "checksum missing", "no IEND"])
def test_a_closed_png_that_ends_early_is_refused(damage, capfd):
    whole = encode(NOISE, "PNG")
    at = whole.index(b"IDAT")
    (length,) = struct.unpack_from(">I", whole, at - 4)
    stream = whole[at + 4 : at + 4 + length]
    rows = zlib.decompress(stream)
    body = {"stream cut": stream[: length // 2], "rows missing": zlib.compress(rows[: len(rows) // 2])}
    body |= {"checksum missing": stream[:-4], "no IEND": stream}
    end = b"" if damage == "no IEND" else png_chunk(b"IEND", b"")
    assert "truncated" in refusal(whole[: at - 4] + png_chunk(b"IDAT", body[damage]) + end)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_closed_gif_that_ends_early_is_refused(kept, capfd):
    whole = encode(Image.fromarray(NOISE).convert("P"), "GIF")
    start = whole.index(b"\x2c", 13 + 768) + 11
    blocks, at = [], start
    while whole[at]:
        blocks.append(whole[at : at + 1 + whole[at]])
        at += 1 + whole[at]
    assert "truncated" in refusal(whole[:start] + b"".join(blocks[:kept]) + b"\0;")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_closed_webp_that_ends_early_is_refused(options, share):
    whole = encode(NOISE, "WEBP", **options)
    cut = bytearray(whole[: int(len(whole) * share) // 2 * 2])
    struct.pack_into("<I", cut, 4, len(cut) - 8)
    struct.pack_into("<I", cut, 16, len(cut) - 20)
    assert "truncated" in refusal(bytes(cut))


@pytest.mark.parametrize("method", [0, 4])
def test_a_lossless_webp_and_an_avif_with_a_hole_are_refused(method):
    webp, avif = encode(NOISE, "WEBP", lossless=True, method=method), encode(NOISE, "AVIF", quality=90)
    for share, length in itertools.product((0.2, 0.5, 0.8), (100, 512, 4096)):
        hole = int(share * len(webp))
        closed = (webp[:hole] + bytes(length) + webp[hole + length :])[: len(webp)]
        assert "truncated" in refusal(closed)
    assert "truncated" in refusal(avif[:-500] + bytes(500))


def flat_pictures():
    page, stripe = (np.full((150, 300, 3), value, np.uint8) for value in (255, 0))
    page[20:40, 30:200] = NOISE[:20, :1]
    stripe[50:75, 60:190] = 255
    half = np.dstack([page, page[:, :, 0]])
    half[75:] = 0
    return {"page": page, "stripe": stripe, "half transparent": half}


@pytest.mark.parametrize("name", flat_pictures())
@pytest.mark.parametrize("quality", [0, 75, 100])
def test_a_lossless_webp_with_flat_areas_is_whole_though_its_data_has_zeros(name, quality):
    pixels = flat_pictures()[name]
    data = encode(pixels, "WEBP", lossless=True, method=0, quality=quality, exact=True)
    right = Image.new("RGB", (300, 150), "white")
    right.paste(Image.fromarray(pixels), mask=Image.fromarray(pixels) if pixels.shape[2] == 4 else None)
    assert np.abs(decode_image(data).pixels.astype(int) - np.asarray(right)).max() <= 1
    with pytest.raises(Refused, match="a flat area or damage: save it as PNG"):  # OpenCV alone cannot tell
        decode(data, 300, {})


@pytest.mark.parametrize("compression", ["lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("tiles", [None, (16, 16)])
def test_a_tiff_with_fewer_strips_or_tiles_than_its_size_needs_is_refused(compression, tiles):
    """Those that are missing would be black."""
    file = BytesIO()
    options = {"tile": tiles} if tiles else {"rowsperstrip": 8}
    tifffile.imwrite(file, scene(48, 32), compression=compression, photometric="rgb", **options)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(BytesIO(data)) as opened:
        length = opened.pages[0].tags["ImageLength"]
    assert decode_image(bytes(data)).pixels.shape == (32, 48, 3)
    data[length.valueoffset : length.valueoffset + 2] = struct.pack("<H", 64)
    assert "truncated" in refusal(bytes(data))


STRIPS = [("rgb", each) for each in ("lzw", "deflate", "packbits", "zstd", "webp", "jpeg")]
STRIPS += [("1", "group3"), ("1", "group4"), ("YCbCr", "tiff_lzw"), ("YCbCr", "packbits"), ("RGB", "jpeg")]


@pytest.mark.parametrize("mode, compression", STRIPS)
def test_a_tiff_whose_strip_ends_early_is_refused(mode, compression, capfd):
    if mode == "rgb":
        whole = tiff(NOISE, photometric="rgb", compression=compression, rowsperstrip=20)
    else:
        whole = encode(Image.fromarray(NOISE).convert(mode), "TIFF", compression=compression)
    with tifffile.TiffFile(BytesIO(whole)) as file:
        tag, counts = file.pages[0].tags[279], file.pages[0].databytecounts
    width = 4 if tag.dtype == 4 else 2
    changed = bytearray(whole)
    struct.pack_into(
        "<I" if width == 4 else "<H", changed, tag.valueoffset + width * (len(counts) - 1), counts[-1] // 2
    )
    assert "truncated" in refusal(bytes(changed))
    assert capfd.readouterr() == ("", "")


# ---- ordinary files are as OpenCV reads them ---------------------------------------------------------------

ORDINARY = [
    (kind, mode, options)
    for kind, all_options in (
        ("JPEG", ({}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"subsampling": 1}, {"quality": 30})),
        ("PNG", ({}, {"compress_level": 1}, {"optimize": True})),
        ("WEBP", ({"quality": 80}, {"lossless": True})),
    )
    for mode in (
        ("L", "RGB", "CMYK") if kind == "JPEG" else ("L", "P", "RGB", "RGBA", "1") if kind == "PNG" else ("RGB",)
    )
    for options in all_options
]


@pytest.mark.parametrize("kind, mode, options", ORDINARY)
@pytest.mark.parametrize("size", [None, (40, 40), (20, 20), (16, 12)])
def test_ordinary_files_are_bit_for_bit_as_opencv_reads_them(kind, mode, options, size):
    image = Image.fromarray(GRAINY).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(GRAINY[:, :, 0]))
    data = np.frombuffer(encode(image, kind, **options), np.uint8)
    spare = min(image.size) // max(size) if size else 1
    reduced = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
    scale = next((scale for scale in reduced if spare >= scale), 0) if kind == "JPEG" else 0
    if mode == "RGBA":
        stored = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
        alpha = np.repeat(stored[:, :, 3:], 3, axis=2)
        expected = cv2.add(cv2.multiply(np.ascontiguousarray(stored[:, :, :3]), alpha, scale=1 / 255), 255 - alpha)
    else:
        expected = cv2.imdecode(data, reduced.get(scale, 0) | cv2.IMREAD_COLOR_RGB)
    if size:
        expected = cv2.resize(expected, size, interpolation=cv2.INTER_AREA)
    assert np.array_equal(decode_image(data.tobytes(), size).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_are_bit_for_bit_as_opencv_reads_them(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encode(GRAINY, "JPEG", exif=exif)
    assert np.array_equal(decode_image(data).pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


def test_of_two_orientations_the_first_counts():
    twice = (
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + b"\x01\x12\0\x03\0\0\0\x01\0\x03\0\0" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    )
    upright = decode_image(encode(GRAINY, "JPEG")).pixels
    assert np.array_equal(decode_image(encode(GRAINY, "JPEG", exif=twice + bytes(4))).pixels, upright[::-1, ::-1])


def test_an_unreadable_image_keeps_its_reason():
    with pytest.raises(UnreadableImage, match="truncated JPEG"):
        decode_image(encode(GRAINY, "JPEG")[:2000] + END)
