"""Files that are cut, damaged, foreign or claim too much: used with a note, or refused with a reason."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from MLPipeline.decoding.ReadImage import decode_image
from tests.support.picture_cases import encode, photo, png_chunk, refusal, scene


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_end_marker_is_used_and_noted(options):
    data = photo(**options)
    picture = decode_image(data[:-2])
    assert picture.note == "end marker missing"
    assert np.array_equal(picture.pixels, decode_image(data).pixels)
    assert decode_image(data[:-1]).note == "end marker missing"
    assert np.array_equal(decode_image(data[:-2], (50, 50)).pixels.shape, (50, 50, 3))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("missing", [0.5, 0.01, 0.98, 40, 6])
def test_a_jpeg_without_pixels_is_truncated(options, missing):
    data = photo(**options)
    cut = data[: int(len(data) * (1 - missing))] if missing < 1 else data[:-missing]
    assert "truncated" in refusal(cut)
    assert "truncated" in refusal(cut + bytes(5000))  # a download that reserved its room on the disk


def test_a_thumbnail_in_the_exif_block_does_not_pass_for_the_end_of_a_cut_jpeg():
    thumbnail = encode(scene(32, 24), "JPEG")
    data = photo(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail)
    assert b"\xff\xd9" in data[: len(data) // 2]
    assert decode_image(data).note == "" and decode_image(data[:-2]).note == "end marker missing"
    assert "truncated" in refusal(data[: len(data) // 2])
    assert "truncated" in refusal(data[: data.index(b"\xff\xd9") + 2])


@pytest.mark.parametrize("trailer", [bytes(1000), b"SEFH" * 50, photo(), b"\xff" * 30])
def test_a_jpeg_with_a_trailer_is_used(trailer):
    assert np.array_equal(decode_image(photo() + trailer).pixels, decode_image(photo()).pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.1])
def test_cut_files_are_refused(kind, kept):
    data = encode(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8), kind)
    assert "truncated" in refusal(data[: int(len(data) * kept)])


def test_a_png_with_a_flipped_bit_is_refused_and_leaves_the_console_clean(capfd):
    data = bytearray(encode(scene(), "PNG"))
    data[len(data) // 2] ^= 4
    assert refusal(bytes(data)) == "PNG with a bad checksum"
    assert "truncated" in refusal(encode(scene(), "TIFF")[:5000])
    assert "truncated" in refusal(photo()[:5000])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "not an image (HTML)"),
        (b"<html><svg></svg></html>", "not an image (HTML)"),
        (b"Access denied", "not an image (text)"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG: convert to JPEG or PNG"),
        (b"%PDF-1.7\n", "PDF: convert to JPEG or PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC: convert to JPEG or PNG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "not an image (video)"),
        (b"\xff\x0a\x10\x20", "JPEG XL: convert to JPEG or PNG"),
        (bytes(5000), "not an image"),
        (b"BM is a text too", "not an image (text)"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
    ],
)
def test_what_is_not_an_image_is_refused_by_name(data, reason):
    assert refusal(data) == reason


def test_tiff_pages_linked_in_a_circle_end():
    data = bytearray(cv2.imencode(".tiff", scene())[1].tobytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    assert decode_image(bytes(data)).pixels.shape == (64, 96, 3)


def huge_png(side: int, depth: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, depth, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def patched(kind: str, old: bytes, new: bytes) -> bytes:
    data = encode(scene(), kind)
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    "data, size",
    [
        (huge_png(70_000, 8), "70000x70000"),
        (huge_png(12_000, 16), "12000x12000"),
        (patched("JPEG", struct.pack(">HH", 64, 96), struct.pack(">HH", 65_000, 65_000)), "65000x65000"),
        (patched("GIF", struct.pack("<HH", 96, 64), struct.pack("<HH", 65_000, 65_000)), "65000x65000"),
        (patched("BMP", struct.pack("<ii", 96, 64), struct.pack("<ii", 70_000, -70_000)), "70000x70000"),
        (patched("AVIF", struct.pack(">II", 96, 64), struct.pack(">II", 70_000, 70_000)), "70000x70000"),
        (
            patched("TIFF", struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 9_000_000)),
            "9000000x64",
        ),
    ],
)
def test_a_header_that_claims_too_much_is_refused_before_decoding(data, size, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert refusal(data) == f"too large: {size}"
