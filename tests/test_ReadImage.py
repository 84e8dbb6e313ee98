"""Every kind of file a folder of images may hold: what is read, how it looks, and what is refused with which reason."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from MLPipeline.images.ReadImage import UnreadableImage, decode_image, read_bytes, read_image

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
EXIF_ORIENTATION = 0x112


def scene(width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth (so that lossy formats keep it), coloured, and different in each corner."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.dstack([255 * across, 255 * down, 255 * (1 - across) * down]).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 60, (240, 320, 3), dtype=np.uint8)
    return encode(scene(320, 240) // 2 + noise, "JPEG", quality=85, **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(data)
    return caught.value.reason


def distance(pixels: np.ndarray, other: np.ndarray) -> float:
    assert pixels.shape == other.shape
    return float(np.abs(pixels.astype(float) - other).mean())


# ---- formats and colour -----------------------------------------------------------------------------------


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


# ---- damaged and foreign files -----------------------------------------------------------------------------


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


# ---- files -------------------------------------------------------------------------------------------------


def test_the_reason_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("empty file")))
    assert error.reason == "empty file" and error.exit_code == 2 and "empty file" in str(error)


@pytest.mark.parametrize("make", ["folder", "fifo", "device", "missing", "loop"])
def test_what_is_no_regular_file_is_refused_without_blocking(tmp_path, make):
    path = tmp_path / "x.jpg"
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "loop":
        path.symlink_to(path)
    done: list[str] = []

    def read() -> None:
        with pytest.raises(UnreadableImage) as caught:
            read_bytes(path)
        done.append(caught.value.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=10)
    expected = {"missing": "no such file or directory", "loop": "too many levels of symbolic links"}
    assert done == [expected.get(make, "not a regular file")]


def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path):
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableImage, match="too large: 1048576 MB"):
        read_image(path)


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", "größe ✓ 🂡.jpg".encode(), b"a\nb.jpg", b"=cmd $x.jpg"])
def test_any_file_name_works(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(encode(scene(), "PNG"))
    assert np.array_equal(read_image(path).pixels, scene())


def test_several_threads_read_the_same_as_one():
    files = [photo(), encode(scene(), "PNG"), photo(progressive=True), encode(scene(), "WEBP"), photo()[:-2]] * 20
    alone = [decode_image(data, (64, 64)).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_image(data, (64, 64)).pixels, files))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def child(code: str, environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_a_pixel_limit_that_is_no_number_does_not_abort_the_process():
    code = "import MLPipeline.images.ReadImage, os; print(os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'])"
    result = child(code, {"OPENCV_IO_MAX_IMAGE_PIXELS": "lots"}, 60)
    assert (result.returncode, result.stdout.strip()) == (0, "250000000")


@pytest.mark.slow
def test_a_small_png_of_64_megapixels_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGBA", (8000, 8000), (10, 200, 30, 128)).save(path, compress_level=9)
    assert path.stat().st_size < 1_000_000
    code = (
        "import resource, sys; from pathlib import Path; from MLPipeline.images.ReadImage import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"pixels = read_image(Path({str(path)!r}), (200, 200)).pixels\n"
        "print(pixels[0, 0], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    result = child(code, {}, 120)
    colour, megabytes = result.stdout.rsplit(maxsplit=1)
    assert colour == "[132 227 142]" and int(megabytes) < 1000, result.stdout + result.stderr


@pytest.mark.slow
def test_every_real_photo_is_read():
    if not CLOTHING.is_dir():
        pytest.skip("the clothing photos are not on this machine")
    paths = sorted(CLOTHING.rglob("*.jpg"))
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda path: read_image(path, (64, 64)), paths))
    assert len(pictures) == 3781 and not any(picture.note for picture in pictures)
    sample = random.Random(0).sample(range(len(paths)), 50)
    for index in sample:
        oracle = ImageOps.exif_transpose(Image.open(paths[index])).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        assert distance(pictures[index].pixels, np.asarray(oracle)) < 8
