"""The images that a Python program passes: paths, encoded bytes, open files, arrays, tensors, PIL images.

    for ready in prepare_images(images, preprocessing, image_size=200): ...      # one image, or an iterable of images

Each kind becomes the square that the model sees in the same way as an image file does: orientation, transparency,
colour profile, depth and fit are treated alike. N images, H, W height and width, S side of the square.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.HeaderColour import png_colour
from MLPipeline.decoding.ImageHeader import ImageHeader, UnreadableImage
from MLPipeline.decoding.Levels import Levels, depth_of
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.decoding.ReadImage import Picture, resize
from MLPipeline.decoding.StoredPixels import StoredPixels
from MLPipeline.Errors import UsageError
from MLPipeline.images.ReadAhead import decoding_threads, read_ahead

THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 128, 80
_ENCODED = (bytes, bytearray, memoryview)
_ORIENTATION_TAG, _ORIENTATIONS = 0x0112, range(1, 9)
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # of Pillow: grey with more than 8 bits
_OTHER_COLOURS = ("LAB", "HSV")
_KINDS = "Give paths, encoded bytes, files opened with 'rb', numpy arrays, torch tensors or PIL images"
_SHAPES = "Give arrays as (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, and tensors with the channels first"
_VALUES = "Give uint8 from 0 to 255; values from 0 to 1 become that by (255 * image).round() and a cast"


@dataclass(frozen=True)
class Ready:
    """An image as the model sees it, or the reason why it cannot be read."""

    path: Path  # of the file; for an image in memory `image 3`, counted from 0
    pixels: np.ndarray | None = None  # (S, S, 3) uint8 RGB
    reason: str = ""
    note: str = ""  # a remark on an image that could be read
    thumbnail: bytes | None = None  # a JPEG of an image in memory, or b""; None for a file, which can be read again


def prepare_images(
    images: Any, preprocessing: Preprocessing, image_size: int, workers: int | None = None
) -> Iterator[Ready]:
    """Yield each image, in order, as a square of `image_size` pixels, prepared ahead by `workers` threads.

    Raises:
        UsageError: one of them is not an image, or an array whose shape or values cannot be those of an image.
    """
    prepare = partial(_prepare, preprocessing=preprocessing, image_size=image_size)
    numbered: Iterator[tuple[int, Any]] = enumerate(_each(images))
    if not isinstance(images, (Sequence, np.ndarray, Tensor)):
        # A program may close a file, or fill the same array again, as soon as it is asked for the next image.
        numbered = ((number, image if _is_path(image) else prepare((number, image))) for number, image in numbered)
    first = list(islice(numbered, 2))
    if len(first) < 2:  # starting threads takes longer than one image
        yield from map(prepare, first)
    else:
        yield from read_ahead(prepare, chain(first, numbered), decoding_threads(workers))


def prepare_image(image: Any, preprocessing: Preprocessing, image_size: int) -> Ready:
    """Return one image as a square of `image_size` pixels, without a thumbnail; raises as `prepare_images` does."""
    return _prepare((0, image), preprocessing, image_size, with_thumbnail=False)


def _each(images: Any) -> Iterator[Any]:
    """Yield the images of an iterable or of a batch (N, ...); or else `images` itself, which is one image."""
    is_tensor = isinstance(images, Tensor)
    if _is_path(images) or isinstance(images, (Image.Image, *_ENCODED)) or hasattr(images, "read"):
        yield images
    elif is_tensor or hasattr(images, "__array__"):
        array = images if is_tensor else np.asarray(images)
        are_many = array.ndim == 4 if is_tensor or array.dtype.kind not in "OSU" else array.ndim > 0  # paths
        yield from array if are_many else (array,)
    elif isinstance(images, Iterable):
        yield from images
    else:
        raise UsageError(f"{type(images).__name__} is not a kind of image", _KINDS)


def _is_path(image: Any) -> bool:
    return isinstance(image, (str, os.PathLike))


def _prepare(
    item: tuple[int, Any], preprocessing: Preprocessing, image_size: int, with_thumbnail: bool = True
) -> Ready:
    """Return the image of `item`, a number and an image, as the model sees it, or the reason why it cannot be read."""
    number, image = item
    if isinstance(image, Ready):
        return image
    path = Path(image) if _is_path(image) else Path(f"image {number}")
    try:
        if _is_path(image):
            picture = preprocessing.read(path, image_size)
            return Ready(path, picture.pixels, note=picture.note)
        data = _encoded(image, number)
        if data is not None:
            picture = preprocessing.decode(data, image_size)
        else:
            picture = preprocessing.square(_stored(image, number, preprocessing.levels), image_size)
    except UnreadableImage as error:
        return Ready(path, reason=error.reason, thumbnail=None if _is_path(image) else b"")
    return Ready(path, picture.pixels, note=picture.note, thumbnail=_thumbnail(picture) if with_thumbnail else b"")


def _encoded(image: Any, number: int) -> bytes | None:
    """Return the bytes of an encoded image or of an open file; None if `image` consists of pixels."""
    if isinstance(image, _ENCODED):
        return bytes(image)
    if isinstance(image, Image.Image) or not hasattr(image, "read"):
        return None
    try:
        data = image.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise UnreadableImage(str(error).splitlines()[0].lower() or type(error).__name__) from None
    if not isinstance(data, _ENCODED):
        raise UsageError(f"image {number}: a file that was opened as text", "Open it with open(path, 'rb')")
    return bytes(data)


def _stored(image: Any, number: int, levels: Levels | None) -> StoredPixels:
    """Return the pixels of a PIL image, a tensor or an array."""
    if isinstance(image, Image.Image):
        return _check_values(_from_pillow(image), number, levels)
    if isinstance(image, Tensor):
        array = _from_tensor(image, number)
    elif hasattr(image, "__array__"):
        array = np.asarray(image)
    else:
        raise UsageError(f"image {number}: {type(image).__name__} is not a kind of image", _KINDS)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        what = "a tensor" if isinstance(image, Tensor) else "an array"
        raise UsageError(f"image {number}: {what} of shape {tuple(image.shape)}", _SHAPES)
    return _check_values(_from_array(array[:, :, 0] if array.shape[2:] == (1,) else array), number, levels)


def _from_tensor(image: Tensor, number: int) -> np.ndarray:
    """Return a tensor as an array with the channels last."""
    try:
        tensor = image.detach().cpu()
        if tensor.dtype.is_floating_point and tensor.dtype.itemsize <= 2:  # numpy has no bfloat16
            tensor = tensor.float()
        return np.asarray(tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor)
    except (TypeError, RuntimeError):  # NotImplementedError among them: without values, sparse, quantized
        kind = f"{str(image.dtype).removeprefix('torch.')} tensor, {str(image.layout).removeprefix('torch.')}"
        raise UsageError(f"image {number}: a {kind} on {image.device}, which numpy cannot read", _VALUES) from None


def _from_array(array: np.ndarray, orientation: int = 1, profile: bytes = b"", gamma: float = 0.0) -> StoredPixels:
    """Return the pixels of grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4), in any order of bytes and of memory."""
    if not array.size:
        raise UnreadableImage("no pixels")
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    size = array.dtype.itemsize
    header = ImageHeader("array", array.shape[1], array.shape[0], 1, size, orientation, profile=profile, gamma=gamma)
    return StoredPixels(array, 8 * size, header, "straight" if array.shape[2:] == (4,) else "none")


def _from_pillow(image: Image.Image) -> StoredPixels:
    """Return the pixels of a PIL image; orientation, colour profile and gamma count, as they do in a file."""
    try:
        image.load()  # files are read late
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        is_transparent = image.has_transparency_data
        profile = image.info.get("icc_profile") or b""
        if image.mode in _OTHER_COLOURS:  # the profile describes those, not the RGB that Pillow converts them to
            profile = b""
        inks, gamma = bool(profile) and image.mode == "CMYK", 0.0 if profile else _gamma(image.info)
        if image.mode in _DEEP_MODES or inks:
            array = _keyed(np.asarray(image), image.info.get("transparency"))
        else:
            if image.mode not in ("L", "RGB", "RGBA") or is_transparent:
                image = image.convert("RGBA" if is_transparent else "L" if image.mode == "1" else "RGB")
            array = np.asarray(image)
    except Exception as error:  # each plug-in has errors of its own
        raise UnreadableImage(f"Pillow: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    stored = _from_array(array, orientation if orientation in _ORIENTATIONS else 1, profile, gamma)
    return replace(stored, alpha="none") if inks else stored


def _gamma(info: Mapping[Any, Any]) -> float:
    """Return the exponent of a PNG file that Pillow has read, as the reader of files takes it; 0 if it is sRGB's."""
    chunks = {b"gAMA": struct.pack(">I", round(100_000 * info["gamma"]))} if "gamma" in info else {}
    return png_colour(chunks | ({b"sRGB": b""} if "srgb" in info else {}))[1]


def _keyed(array: np.ndarray, key: Any) -> np.ndarray:
    """Return deep grey (H, W) with its transparent value, if there is one, as RGBA; other pixels as they are."""
    if array.ndim == 3 or array.dtype.kind != "u" or not isinstance(key, int):
        return array
    return np.dstack([array] * 3 + [np.where(array == key, 0, np.iinfo(array.dtype).max).astype(array.dtype)])


def _check_values(stored: StoredPixels, number: int, levels: Levels | None) -> StoredPixels:
    """Return `stored` if black and white of its values are known: uint8, uint16, or what the model was trained on.

    Raises:
        UsageError: they would have to be guessed: 1.0 may be white, or nearly black.
    """
    dtype = stored.pixels.dtype
    if dtype == np.bool_ or dtype.kind not in "uif":
        raise UsageError(f"image {number}: {dtype.name} values", _VALUES)
    if dtype not in (np.uint8, np.uint16) and not (levels and depth_of(stored) in levels.by_depth):
        raise UsageError(f"image {number}: which of its {dtype.name} values are black and white is not known", _VALUES)
    return stored


def _thumbnail(picture: Picture) -> bytes:
    """Return what the model sees as a small JPEG, in the proportions of the image."""
    width, height = picture.header.width, picture.header.height
    if picture.header.orientation > 4:  # turned by 90 degrees
        width, height = height, width
    scale = THUMBNAIL_SIDE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return encode_jpeg(resize(picture.pixels, size), THUMBNAIL_QUALITY)
