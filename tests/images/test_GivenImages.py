"""An image is the same to the model whether it comes as a file, its bytes, an array, a tensor or a PIL image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from MLPipeline.decoding.Levels import Level, Levels
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.decoding.ReadImage import cv2, read_image
from MLPipeline.Errors import UsageError
from MLPipeline.images.GivenImages import Ready, prepare_images
from tests.support.format_cases import cmyk_profile, png, wide_gamut_profile
from tests.support.picture_cases import png_chunk

SIZE = 24
DEEP = Preprocessing(levels=Levels({"uint16": Level(1000.0, 9000.0)}))


def only(image: object, preprocessing: Preprocessing = PLAIN) -> Ready:
    (ready,) = prepare_images(image, preprocessing, SIZE)
    return ready


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    """A smooth picture of random colours, (H, W) or (H, W, channels) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, *shape[2:]), np.uint8)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(60, 90), (60, 90, 3), (60, 90, 4), (7, 11, 3)])
def test_an_array_a_tensor_and_a_pil_image_equal_the_file(tmp_path: Path, fit: str, shape: tuple[int, ...]) -> None:
    array, path = drawn(*shape), tmp_path / "x.png"
    Image.fromarray(array).save(path)
    how = Preprocessing(fit=fit)
    expected = how.read(path, SIZE).pixels
    tensor = torch.from_numpy(array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
    with path.open("rb") as file, Image.open(path) as lazy:
        given = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes()), file]
        given += [array, np.asfortranarray(array), tensor, lazy, Image.fromarray(array)]
        for image in given:
            np.testing.assert_array_equal(only(image, how).pixels, expected, str(type(image)))
        given[4].seek(0)
        file.seek(0)
        ready = list(prepare_images(given, how, SIZE))
    assert all(np.array_equal(each.pixels, expected) for each in ready)
    assert [each.path for each in ready] == [path, path, *(Path(f"image {number}") for number in range(2, 11))]
    assert [each.thumbnail is None for each in ready] == [True, True, *[False] * 9]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX"])
def test_a_pil_image_of_any_mode_equals_its_file(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(drawn(40, 30, 4)).convert(mode)
    image.convert("RGB" if mode == "RGBX" else mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(only(image).pixels, read_image(tmp_path / "x.png", (SIZE, SIZE)).pixels)


def test_a_transparent_colour_of_a_pil_image_is_white() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.info["transparency"] = 1
    assert (only(image).pixels == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_upright_and_in_srgb_as_its_file_is(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "x.png", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(drawn(40, 30, 3)).save(path, exif=exif)
    plain = PLAIN.read(path, SIZE)
    Image.fromarray(drawn(40, 30, 3)).save(path, exif=exif, icc_profile=wide_gamut_profile())
    expected = PLAIN.read(path, SIZE)
    assert (expected.pixels != plain.pixels).mean() > 0.3
    with Image.open(path) as image:
        ready = only(image)
    np.testing.assert_array_equal(ready.pixels, expected.pixels)
    assert ready.note == expected.note
    assert np.array_equal(ready.pixels, only(path.read_bytes()).pixels)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_pil_image_of_four_inks_is_in_srgb_as_its_file_is(tmp_path: Path, kind: str) -> None:
    inks, path = Image.fromarray(drawn(40, 30, 3)).convert("CMYK"), tmp_path / "x"
    inks.save(path, kind, icc_profile=cmyk_profile())
    with Image.open(path) as image:
        ready = only(image)
    assert np.abs(ready.pixels.astype(int) - only(inks).pixels).mean() > 10
    np.testing.assert_array_equal(ready.pixels, PLAIN.read(path, SIZE).pixels)


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.8, 1 / 2.2])
@pytest.mark.parametrize("others", [(), (png_chunk(b"sRGB", b"\0"),)])
def test_the_gamma_of_a_pil_image_counts_as_in_its_file(gamma: float, others: tuple[bytes, ...]) -> None:
    pixels = drawn(40, 30, 3)
    data = png(pixels, 8, 2, png_chunk(b"gAMA", round(100_000 * gamma).to_bytes(4, "big")), *others)
    with Image.open(io.BytesIO(data)) as image:
        ready = only(image)
    np.testing.assert_array_equal(ready.pixels, only(data).pixels)
    difference = np.abs(ready.pixels.astype(int) - only(pixels).pixels).mean()
    assert difference == 0 if others or gamma == 1 / 2.2 else difference > 5


def test_a_transparent_grey_of_16_bits_is_white_in_a_pil_image_too() -> None:
    values = np.linspace(1000, 9000, 60 * 40).reshape(40, 60).astype(np.uint16)
    values[:20] = 5000
    data = png(values[:, :, None], 16, 0, png_chunk(b"tRNS", (5000).to_bytes(2, "big")))
    with Image.open(io.BytesIO(data)) as image:
        ready = only(image, DEEP)
    np.testing.assert_array_equal(ready.pixels, only(data, DEEP).pixels)
    assert (ready.pixels[:11] == 255).all() and ready.pixels[-1, 0, 0] not in (0, 255)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_of_any_floating_point_type_is_read_where_its_level_is_known(dtype: torch.dtype) -> None:
    pixels = drawn(SIZE, SIZE, 3)
    tensor = (torch.from_numpy(pixels).permute(2, 0, 1) / 255).to(dtype)
    ready = only(tensor, Preprocessing(levels=Levels({"float": Level(0.0, 1.0)})))
    assert ready.pixels is not None and np.abs(ready.pixels.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bits_are_shown_at_the_levels_of_the_model(tmp_path: Path, dtype: str) -> None:
    array = np.linspace(1000, 9000, 60 * 40).reshape(40, 60).astype(dtype)
    assert cv2.imwrite(str(tmp_path / "x.png"), array.astype(np.uint16))
    expected = DEEP.read(tmp_path / "x.png", SIZE).pixels
    assert expected.min() < 10 and expected.max() > 245
    for image in (array, torch.from_numpy(array.astype(np.uint16)), Image.fromarray(array.astype(np.uint16))):
        np.testing.assert_array_equal(only(image, DEEP).pixels, expected)
    assert only(array, DEEP).note == ""
    assert "not trained on" in only(array, Preprocessing(levels=Levels())).note


def test_a_depth_that_the_model_knows_is_accepted_and_any_other_refused() -> None:
    image = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    ready = only(image, Preprocessing(levels=Levels({"float": Level(0.0, 0.5)})))
    assert ready.pixels is not None and (ready.pixels == 255).mean() > 0.4
    with pytest.raises(UsageError, match=r"image 0: which of its float32 values are black .*\. Give uint8"):
        only(image, DEEP)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "NoneType is not a kind of image. Give paths"),
        (7, "int is not a kind of image"),
        ([None], "image 0: NoneType is not a kind of image"),
        ([("a.jpg", 3)], "image 0: tuple is not a kind of image"),
        (np.zeros((3, 20, 30), np.uint8), "an array of shape (3, 20, 30)"),
        (np.zeros((20, 30, 2), np.uint8), "an array of shape (20, 30, 2)"),
        (np.zeros(20, np.uint8), "an array of shape (20,)"),
        (torch.zeros(20, 30, 3, dtype=torch.uint8), "a tensor of shape (20, 30, 3)"),
        (torch.zeros(3, 20, 30), "float32 values"),
        (torch.zeros(3, 20, 30, dtype=torch.bfloat16), "float32 values"),
        (torch.zeros(3, 20, 30).to_sparse(), "a float32 tensor, sparse_coo on cpu, which numpy cannot read"),
        (torch.zeros(3, 20, 30, device="meta"), "a float32 tensor, strided on meta, which numpy cannot read"),
        (np.zeros((20, 30), np.int64), "int64 values"),
        (np.zeros((20, 30), bool), "bool values"),
        (np.zeros((20, 30), complex), "complex128 values"),
        (io.StringIO("text"), "opened as text"),
    ],
)
def test_what_cannot_be_an_image_is_an_error_that_says_what_to_give(image: object, words: str) -> None:
    with pytest.raises(UsageError) as error:
        only(image)
    assert words in str(error.value) and error.value.hint.startswith(("Give ", "Open "))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty"),
        (b"<html>", "not an image"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        ("no/such/file.jpg", "no such file"),
        ("a\0b.jpg", "not a possible file name"),
        (Path("/"), "not a regular file"),
        (Image.new("RGB", (0, 3)), "no pixels"),
    ],
    ids=["empty", "html", "no pixels", "missing", "null", "folder", "empty PIL"],
)
def test_what_cannot_be_read_gives_a_reason(image: object, reason: str) -> None:
    ready = only(image)
    assert ready.pixels is None and reason in ready.reason


def test_a_truncated_pil_image_gives_a_reason() -> None:
    buffer = io.BytesIO()
    Image.fromarray(drawn(200, 200, 3)).save(buffer, "JPEG")
    assert only(Image.open(io.BytesIO(buffer.getvalue()[:900]))).reason.startswith("Pillow: ")


def test_a_closed_file_gives_a_reason(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with (tmp_path / "x.png").open("rb") as file:
        pass
    assert "closed" in only(file).reason


def test_a_batch_a_column_of_paths_and_a_set_are_many_images(tmp_path: Path) -> None:
    batch = np.stack([drawn(30, 20, 3, seed=seed) for seed in range(3)])
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, array in zip(paths, batch, strict=True):
        Image.fromarray(array).save(path)
    expected = [PLAIN.read(path, SIZE).pixels for path in paths]
    names = [str(path) for path in paths]
    kinds = [
        batch,
        torch.from_numpy(batch).permute(0, 3, 1, 2),
        pd.Series(names),
        np.array(names),
        dict.fromkeys(paths),
    ]
    for images in kinds:
        ready = list(prepare_images(images, PLAIN, SIZE, workers=1))
        np.testing.assert_array_equal([each.pixels for each in ready], expected)
    assert list(prepare_images([], PLAIN, SIZE)) == list(prepare_images(np.empty((0, 9, 9, 3)), PLAIN, SIZE)) == []


def frames(numbers: range) -> Iterator[np.ndarray]:
    """As a camera does: the same memory for every picture."""
    memory = np.empty((30, 20, 3), np.uint8)
    for number in numbers:
        memory[:] = 10 * number
        yield memory


class Camera:
    def __iter__(self) -> Iterator[np.ndarray]:
        return frames(range(20))


@pytest.mark.parametrize("source", [lambda: frames(range(20)), Camera])
def test_a_generator_may_fill_the_same_array_again(source: Callable[[], object]) -> None:
    means = [each.pixels.mean() for each in prepare_images(source(), PLAIN, SIZE, workers=2) if each.pixels is not None]
    assert means == [10 * number for number in range(20)]


def test_a_generator_may_close_its_files(tmp_path: Path) -> None:
    Image.fromarray(drawn(9, 9, 3)).save(tmp_path / "x.png")

    def opened() -> Iterator[object]:
        for _ in range(5):
            with (tmp_path / "x.png").open("rb") as file:
                yield file

    assert [each.reason for each in prepare_images(opened(), PLAIN, SIZE)] == [""] * 5


def test_the_thumbnail_has_the_proportions_of_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(drawn(100, 200, 3)).save(buffer, "JPEG", exif=exif)
    shapes = []
    for image in (drawn(100, 200, 3), buffer.getvalue(), drawn(1, 900, 3)):
        thumbnail = only(image).thumbnail
        assert thumbnail is not None
        shapes.append(cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_COLOR).shape)
    assert shapes == [(64, 128, 3), (128, 64, 3), (1, 128, 3)]
