"""Black and white of pictures with more than 8 bits: found from all files, robust against outliers, applied alike."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.Levels import (
    EACH_ITS_OWN,
    Level,
    Levels,
    are_levels,
    depth_of,
    find_levels,
    level_of,
    to_8_bits,
    value_range,
)
from MLPipeline.decoding.OpenCv import cv2
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.decoding.ReadImage import decode_image, read_image
from MLPipeline.decoding.StoredPixels import StoredPixels
from MLPipeline.files.Cache import digest
from MLPipeline.images.Fingerprint import make_rows
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ScanFolders import scan_folders
from tests.support.paths import INPUTS

RAMP = np.tile(np.linspace(200, 4000, 96).astype(np.uint16), (96, 1))
THERMAL = np.random.default_rng(0).normal(51500, 100, (96, 96)).astype(np.uint16)


def stored(pixels: np.ndarray, bits: int = 0) -> StoredPixels:
    alpha = "straight" if pixels.ndim == 3 and pixels.shape[2] == 4 else "none"
    header = ImageHeader("TIFF", pixels.shape[1], pixels.shape[0])
    return StoredPixels(pixels, bits or 8 * pixels.dtype.itemsize, header, alpha)


def with_hot_pixel(pixels: np.ndarray, value: float) -> np.ndarray:
    hot = pixels.copy()
    hot[40, 17] = value
    return hot


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels)
    return file.getvalue()


def inspected(root: Path, files: dict[str, bytes], cache: Path) -> Inspection:
    """Return what is known of these files, by their paths below `root`, and of one of 8 bits that is the last."""
    for name, data in {**files, "z/plain.png": png(np.full((20, 20, 3), 99, np.uint8))}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return inspect_images(scan_folders(root), cache)


@pytest.mark.parametrize(
    ("pixels", "bits", "depth"),
    [
        (np.zeros((2, 2), np.uint8), 8, ""),
        (np.zeros((2, 2), np.uint16), 16, "uint16"),
        (np.zeros((2, 2), np.uint16), 12, "uint16 of 12 bits"),
        (np.zeros((2, 2), np.int16), 15, "int16"),
        (np.zeros((2, 2), np.int32), 31, "int32"),
        (np.zeros((2, 2), np.float16), 16, "float"),
        (np.zeros((2, 2), np.float64), 64, "float"),
    ],
)
def test_each_kind_of_depth_has_a_name(pixels: np.ndarray, bits: int, depth: str) -> None:
    assert depth_of(stored(pixels, bits)) == depth


@pytest.mark.parametrize(
    ("depth", "low", "high", "black", "white"),
    [
        ("uint16", 0, 1000, 0, 1023),  # 10 bits in 16
        ("uint16", 200, 4000, 0, 4095),  # 12
        ("uint16", 100, 16000, 0, 16383),  # 14
        ("uint16", 0, 60000, 0, 65535),
        ("uint16", 51200, 51800, 51200, 51800),  # thermal
        ("uint16", 0, 1100, 0, 1100),  # under half of 4095
        ("uint16", 700, 700, 0, 1023),  # all of one grey
        ("uint16", 0, 0, 0, 255),
        ("uint16 of 12 bits", 0, 3000, 0, 4095),
        ("uint16 of 12 bits", 0, 1000, 0, 1000),
        ("int16", -1000, 3000, -1000, 3000),  # Hounsfield units
        ("int32", 0, 2**31 - 1, 0, 2**31 - 1),
        ("int32", 10**9, 10**9 + 500, 10**9, 10**9 + 500),
        ("uint32", 0, 60000, 0, 65535),
        ("float", 0, 0.9, 0, 1),
        ("float", 3, 250, 0, 255),
        ("float", 280, 310, 280, 310),  # kelvin
        ("float", -1, 1, -1, 1),
        ("float", 0, 1e-3, 0, 1e-3),
        ("float", -5, -5, -5, -4),
        ("float", 0, 1e9, 0, 1e9),
    ],
)
def test_levels_follow_from_the_range_of_the_values(
    depth: str, low: float, high: float, black: float, white: float
) -> None:
    assert level_of(depth, low, high) == Level(black, white)


@pytest.mark.parametrize("value", [0, 4095, 4200, 65535])
def test_one_hot_or_dead_pixel_decides_nothing(value: int) -> None:
    assert value_range(stored(with_hot_pixel(RAMP, value))) == value_range(stored(RAMP))
    small = RAMP[:50:5, ::8]  # 120 pixels
    assert value_range(stored(with_hot_pixel(small.repeat(5, 0).repeat(2, 1), value)))[1] <= 4000


@pytest.mark.parametrize("side", [100, 500, 512, 700, 1024])  # of every third, sixth, ... value each is red
@pytest.mark.parametrize("bands", [3, 4])
def test_every_colour_of_a_picture_of_any_size_is_measured(side: int, bands: int) -> None:
    pixels = np.zeros((side, side, bands), np.uint16)
    pixels[:, :, 2] = np.linspace(0, 60000, side)  # a stain that shines in blue alone
    low, high = value_range(stored(pixels))
    assert low == 0 and 59000 < high <= 60000
    shown, _ = to_8_bits(stored(pixels), find_levels(["uint16"], np.array([low]), np.array([high])))
    assert np.abs(shown[0, :, 2] - np.linspace(0, 60000 / 257, side)).max() < 1


def test_infinity_and_what_is_no_number_decide_nothing() -> None:
    pixels = np.linspace(280, 310, 10_000, dtype=np.float32).reshape(100, 100)
    holes = pixels.copy()
    holes[:30], holes[30:60] = np.nan, np.inf
    low, high = value_range(stored(holes))
    assert 297 < low < 299 and 309 < high <= 310
    levels = Levels({"float": Level(280, 310)})
    shown, _ = to_8_bits(stored(holes), levels)
    assert shown[0, 0] == 0 and shown[40, 0] == 255
    assert np.array_equal(shown[60:], to_8_bits(stored(pixels), levels)[0][60:])
    with pytest.raises(UnreadableImage, match="not a number"):
        value_range(stored(np.full((3, 3), np.nan)))


@pytest.mark.parametrize(
    ("dtype", "no_data", "text"),
    [
        ("float32", -9999, "-9999"),
        ("float32", np.finfo(np.float32).min, "-3.4028234663852886e+38"),
        ("float64", -9999, "-9999.0\0"),
        ("int16", -32768, "-32768"),
        ("uint16", 65535, "65535 "),
        ("uint16", 0, "0"),
    ],
)
def test_what_was_not_measured_decides_nothing(dtype: str, no_data: float, text: str) -> None:
    terrain = np.linspace(8200, 8900, 10_000).reshape(100, 100).astype(dtype)
    with_holes = terrain.copy()
    with_holes[:30] = no_data
    files = []
    for named in (text, "none", None):
        file = io.BytesIO()
        tifffile.imwrite(file, with_holes, extratags=[(42113, 2, None, named, True)] if named else [])
        files.append(decode_image(file.getvalue(), levels=Levels()).stored)
    low, high = value_range(files[0])
    assert 8400 < low < 8420 and 8890 < high <= 8900
    assert all(no_data in value_range(other) for other in files[1:])  # nothing says that it is no value
    level = find_levels([depth_of(files[0])], np.array([low]), np.array([high]))
    shown, _ = to_8_bits(files[0], level)
    assert (shown[:30] == (255 if no_data == 65535 else 0)).all() and len(np.unique(shown[30:])) > 200
    everywhere = stored(np.full((9, 9), no_data, dtype))
    assert value_range(replace(everywhere, no_data=no_data)) == value_range(everywhere)


def test_what_is_transparent_decides_nothing() -> None:
    cut_out = np.dstack([THERMAL] * 3 + [np.full_like(THERMAL, 65535)])
    assert value_range(stored(cut_out))[0] > 51000
    cut_out[:48] = 0
    low, high = value_range(stored(cut_out))
    assert 51000 < low < high < 52000
    assert value_range(stored(cut_out[:48])) == (0, 0)


def test_a_picture_without_a_number_is_refused_at_every_level() -> None:
    nothing = tiff(np.full((9, 9), np.nan, np.float32))
    for levels in (None, Levels(), Levels({"float": Level(0, 1)})):
        with pytest.raises(UnreadableImage, match="not a number in any pixel"):
            decode_image(nothing, levels=levels)


def test_a_file_far_from_all_others_decides_nothing() -> None:
    lows, highs = np.full(30, 51200.0), np.full(30, 51800.0)
    highs[7], lows[9] = 65535, 0
    assert find_levels(["uint16"] * 30, lows, highs).by_depth == {"uint16": Level(51200, 51800)}
    highs[7] = 52000  # not far: it counts
    assert find_levels(["uint16"] * 30, lows, highs).by_depth == {"uint16": Level(51200, 52000)}


def test_each_depth_has_levels_of_its_own() -> None:
    levels = find_levels(
        ["uint16", "float", "", "uint16 of 12 bits"], np.array([0, 280, 0, 0]), np.array([6e4, 310, 9, 4e3])
    )
    assert levels.to_plain() == {"float": [280, 310], "uint16": [0, 65535], "uint16 of 12 bits": [0, 4095]}
    assert Levels.from_plain(levels.to_plain()) == levels
    # The full range of 16, or of the 12 bits that a file states, goes without saying.
    assert levels.lines() == ["floating-point pictures: 280 shown as black, 310 as white"]


def test_the_line_says_how_little_of_the_range_is_used() -> None:
    (line,) = Levels({"uint16": Level(51200, 51800)}).lines()
    assert line == "16-bit pictures: 51200 shown as black, 51800 as white (they use 0.92 % of the range)"
    assert Levels({"uint16": Level(0, 4095)}).lines() == ["16-bit pictures: 0 shown as black, 4095 as white"]
    assert Levels({"int16": Level(-1000, 3000)}).lines()[0].startswith("signed 16-bit pictures: -1000 shown as black")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_black_and_white_are_0_and_255_and_what_lies_between_is_even(dtype: type) -> None:
    values = np.array([[0, 1000, 1500, 2000, 9000]], dtype)
    levels = Levels({depth_of(stored(values)): Level(1000, 2000)})
    shown, note = to_8_bits(stored(values), levels)
    assert shown.tolist() == [[0, 0, 128, 255, 255]] and not note


def test_alpha_has_no_levels() -> None:
    pixels = np.full((2, 2, 4), 51500, np.uint16)
    pixels[0, :, 3], pixels[1, :, 3] = 65535, 0
    shown, _ = to_8_bits(stored(pixels), Levels({"uint16": Level(51200, 51800)}))
    assert shown[0, 0].tolist() == [128, 128, 128, 255] and shown[1, 0].tolist() == [128, 128, 128, 0]


def test_a_depth_without_levels_is_shown_at_its_own_range_and_noted() -> None:
    plain = decode_image(png(RAMP), levels=Levels())
    hot = decode_image(png(with_hot_pixel(RAMP, 65535)), levels=Levels({"float": Level(0, 1)}))
    assert abs(plain.pixels.mean() - hot.pixels.mean()) < 1
    assert (
        plain.note
        == hot.note
        == ("16-bit values, which the model was not trained on: shown at the range of this file alone")
    )
    assert decode_image(png(RAMP), levels=EACH_ITS_OWN).note == ""


def test_without_levels_the_brightest_pixel_decides_as_it_always_did() -> None:
    assert round(decode_image(png(RAMP)).pixels.mean(), 1) == round(255 / 4095 * RAMP.mean(), 1)
    assert round(decode_image(png(with_hot_pixel(RAMP, 65535))).pixels.mean(), 1) == round(255 / 65535 * RAMP.mean(), 1)


def test_pictures_of_8_bits_have_no_levels() -> None:
    pixels = np.random.default_rng(0).integers(0, 99, (20, 20, 3), np.uint8)
    levels = Levels({"uint16": Level(1, 2)})
    assert np.array_equal(decode_image(png(pixels), levels=levels).pixels, decode_image(png(pixels)).pixels)
    preprocessing = Preprocessing(levels=levels)
    assert preprocessing.key(png(pixels)) == digest(png(pixels))
    assert find_levels([], np.empty(0), np.empty(0)) == Levels()


def test_rows_of_deep_pictures_are_kept_per_level() -> None:
    data = png(RAMP)
    keys = {
        Preprocessing(levels=levels).key(data)
        for levels in (None, Levels(), Levels({"uint16": Level(0, 4095)}), Levels({"uint16": Level(0, 65535)}))
    }
    assert len(keys) == 4 and digest(data) in keys  # the first, as before there were levels


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float16", "float32", "float64"])
def test_the_header_says_that_a_picture_is_deep(dtype: str) -> None:
    data = tiff((np.random.default_rng(0).random((20, 20)) * 100).astype(dtype))
    levels = Levels()
    assert decode_image(data, levels=levels).stored is not None
    assert Preprocessing(levels=levels).key(data) == levels.key(digest(data))


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_the_header_says_that_a_picture_with_packed_samples_is_deep(bits: int) -> None:
    """Without that, the row that another level has left in the store is taken for it."""
    file = io.BytesIO()
    tifffile.imwrite(file, RAMP >> 4, bitspersample=bits)
    levels = Levels({f"uint16 of {bits} bits": Level(0, 255)})
    assert decode_image(file.getvalue(), levels=levels).stored is not None
    assert Preprocessing(levels=levels).key(file.getvalue()) == levels.key(digest(file.getvalue()))


def test_no_pixels_of_deep_pictures_are_made_before_the_levels_are_known() -> None:
    flat = np.full((20, 20), 90, np.uint8)
    rows, pixels = make_rows([png(RAMP), png(flat)], image_size=16)
    assert pixels[0] is None and pixels[1] is not None
    assert rows["depth"].tolist() == [b"uint16", b""] and rows["print"]["bits"].tolist() == [16, 8]
    assert rows["low"][0] > 190 and 3900 < rows["high"][0] <= 4000


def test_the_looks_of_deep_pictures_are_those_at_the_levels_of_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    files = {}
    for number in range(12):
        pixels = rng.normal(51300 + 40 * number, 20, (48, 48)).astype(np.uint16)
        files[f"a/{number:02d}.png"] = png(with_hot_pixel(pixels, 65535) if number == 3 else pixels)
    files["b/photo.png"] = png(rng.integers(0, 256, (48, 48, 3), np.uint8))
    inspection = inspected(tmp_path / "Data", files, tmp_path / "cache")
    level = inspection.levels.by_depth["uint16"]
    assert 51200 < level.black < 51300 and 51740 < level.white < 51840
    index = scan_folders(tmp_path / "Data")
    for position in range(len(index)):
        picture = read_image(index.path(position), (192, 192), inspection.levels)
        grey = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY)
        small = cv2.blur(grey, (3, 3))[1::3, 1::3].astype(int)
        known = inspection.prints[position]
        assert abs(int(known["brightness"]) - small.mean()) < 1.5
        assert abs(int(known["contrast"]) - small.std()) < 1.5
        assert np.abs(known["colour"].astype(int) - picture.pixels.mean(axis=(0, 1))).max() < 1.5
        shown = inspection.thumbnails(np.array([position]))[0].astype(int)
        assert np.quantile(np.abs(shown - small), 0.99) <= 3  # the few most extreme values were cut off
    assert "not trained" not in str(inspection.notes(index))


def test_levels_come_from_the_images_that_are_named(tmp_path: Path) -> None:
    files = {f"a/{value}.png": png(np.full((20, 20), value, np.uint16)) for value in (300, 900, 4000, 60000)}
    inspection = inspected(tmp_path / "Data", files, tmp_path / "cache")
    index = scan_folders(tmp_path / "Data")
    names = [index.name(position) for position in range(len(index))]
    chosen = np.array([names.index("a/300.png"), names.index("a/900.png")])
    assert inspection.levels_of(chosen).to_plain() == {"uint16": [0, 1023]}
    keys = inspection.row_keys(inspection.levels_of(chosen))
    data = files[names[0]]
    assert keys[0].tobytes() == Preprocessing(levels=inspection.levels_of(chosen)).key(data)


@pytest.mark.parametrize(
    "stored_levels",
    [
        [],
        {"uint16": [1]},
        {"uint16": [2, 1]},
        {"uint16": [0, float("nan")]},
        {"uint16": ["0", "1"]},
        {"../x": [0, 1]},
        {1: [0, 1]},
        {"uint16 of 999 bits": [0, 1]},
    ],
)
def test_levels_from_elsewhere_are_checked(stored_levels: object) -> None:
    assert not are_levels(stored_levels)
    assert are_levels({"uint16": [0, 1.5], "float": (-1.0, 1.0), "uint16 of 12 bits": [0, 4095]})


@pytest.mark.parametrize(
    "pair", [("ramp-12-bits.png", "ramp-12-bits-one-hot-pixel.png"), ("thermal.png", "thermal-hot.png")]
)
def test_the_shared_inputs_have_one_level_in_a_data_set(pair: tuple[str, str], tmp_path: Path) -> None:
    if not INPUTS.is_dir():
        pytest.skip("the shared inputs are not here")
    files = {f"a/{name}": (INPUTS / "pixels" / name).read_bytes() for name in pair}
    inspection = inspected(tmp_path / "Data", files, tmp_path / "cache")
    first, second = (decode_image(data, levels=inspection.levels).pixels for data in files.values())
    if "ramp" in pair[0]:
        assert abs(first.mean() - second.mean()) < 2
        assert abs(first.mean() - 255 / 4095 * 2100) < 2
    else:
        assert len(np.unique(first)) > 30 and len(np.unique(second)) > 60
        assert second.max() == 255 and first.min() == 0
