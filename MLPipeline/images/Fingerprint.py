"""The bytes of an image file -> one packed record of everything that can be measured without a model.

A record identifies the image (`digest`, `phash`, `dhash`), and describes the file (`width` to `flags`) and its
appearance (`brightness` to `border_contrast`). A row holds the record, a grey thumbnail for comparing possible
duplicates, and a note: a remark, or the reason why the file is not used. Rows are cached by the content of the file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.Levels import EACH_ITS_OWN, depth_of, value_range
from MLPipeline.decoding.ReadHeader import PARSERS
from MLPipeline.decoding.ReadImage import (
    DECODER,
    Picture,
    UnreadableImage,
    cv2,
    decode_for,
    decode_image,
    decodes_alike,
    resize,
)
from MLPipeline.files.Cache import DIGEST_BYTES, digest

FORMAT = 2  # incremented whenever the content or the meaning of a row changes
KINDS = ("", *PARSERS)  # "JPEG", "PNG", ...; `kind` is an index into it
SIDE = 192  # each image is measured on a square of this side; decoding to it takes 1.5 ms, to 256 3.6 ms
THUMBNAIL_SIDE = SIDE // 3
NOTE_BYTES = 120
_COSINES = np.array(  # rows 1 to 8 of the 32-point cosine transform (DCT-II)
    [[np.cos(np.pi * (2 * place + 1) * wave / 64) / 4 for place in range(32)] for wave in range(1, 9)], np.float32
)
_MAX_SPREAD_OF_GREY = 8  # difference between red, green and blue that JPEG leaves in a grey image

# Bits of `flags`.
UNREADABLE = 1  # not used; all fields of the record except `digest`, `size` and `flags` are 0
NOTED = 2  # used, but unusual: `note` describes how
GREY = 4  # without colour, however it is stored
TRANSPARENT = 8  # partly transparent; shown on white
DEEP = 16  # more than 8 bits per channel
ANIMATED = 32  # several frames or pages; only the first is used

FINGERPRINT = np.dtype(
    [
        ("digest", f"V{DIGEST_BYTES}"),  # of the bytes of the file: equal for exact duplicates only
        ("phash", "<u8"),  # 64 bits, nearly all equal for near-duplicates: the coarse shapes
        ("dhash", "<u8"),  # 64 bits likewise: where the image gets lighter from left to right
        ("width", "<u4"),  # pixels of the upright image, before any resizing
        ("height", "<u4"),
        ("size", "<u4"),  # of the file, in bytes
        ("sharpness", "<f4"),  # variance of the Laplacian of the grey image at SIDE x SIDE
        ("kind", "u1"),  # index into KINDS
        ("orientation", "u1"),  # EXIF number 1 to 8, as stored; 1 is upright
        ("channels", "u1"),  # as stored: 1 grey, 3 colour or palette, 4 with alpha or CMYK
        ("bits", "u1"),  # per channel as stored: 8 for 1 to 8, then 10, 12, 14, 16, 32 or 64
        ("flags", "u1"),
        ("brightness", "u1"),  # mean of the grey thumbnail, 0 to 255
        ("contrast", "u1"),  # standard deviation of the grey thumbnail
        ("shadow", "u1"),  # the grey value that 5 % of the pixels are below
        ("light", "u1"),  # the grey value that 5 % of the pixels are above
        ("colour", "u1", 3),  # mean red, green, blue
        ("saturation", "u1"),  # mean difference between the largest and the smallest of red, green, blue
        ("border", "u1", 3),  # mean red, green, blue of the outermost 1.6 %
        ("border_contrast", "u1"),  # standard deviation of the border: 0 for a frame or background of one colour
    ]
)
ROW = np.dtype(
    [
        ("print", FINGERPRINT),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
        ("note", f"S{NOTE_BYTES}"),
        # Only for images of more than 8 bits, whose appearance above is measured at the levels of their own values.
        ("depth", "S20"),  # see `depth_of`
        ("low", "<f8"),  # see `value_range`
        ("high", "<f8"),
    ]
)
IDENTITY = f"{FORMAT} {ROW.descr} {SIDE} {DECODER}"  # everything that a row depends on besides the image file


def make_rows(
    files: Iterable[bytes], image_size: int = 0, fit: str = STRETCH
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Return the rows (B,) ROW of image files, given as bytes, readable or not, and the decoded pixels of each.

    The pixels are (image_size, image_size, 3) uint8, equal to those of `decode_image`. They are None if `image_size` is
    0, if the file is unreadable, or if it has more than 8 bits, because its brightness depends on all files.
    """
    made = [_make_row(data, image_size, fit) for data in files]
    rows = np.array([row for row, _, _ in made], ROW)
    small = [thumbnail for _, thumbnail, _ in made if thumbnail is not None]
    if small:
        readable = (rows["print"]["flags"] & UNREADABLE) == 0
        described = rows[readable]
        _describe_appearance(described, np.stack(small))
        rows[readable] = described
    return rows, [pixels for _, _, pixels in made]


def _make_row(data: bytes, image_size: int, fit: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return a row (ROW, shape ()) without its appearance, the small image to measure that on, and the pixels."""
    row = np.zeros((), ROW)
    record, measured_size, target_size = row["print"], (SIDE, SIDE), (image_size, image_size)
    record["digest"], record["size"] = np.void(digest(data)), len(data)
    try:
        picture = decode_for(data, measured_size, EACH_ITS_OWN)
        if picture.stored is not None:
            row["depth"], (row["low"], row["high"]) = depth_of(picture.stored).encode(), value_range(picture.stored)
    except UnreadableImage as error:
        record["flags"], row["note"] = UNREADABLE, error.reason.encode()[:NOTE_BYTES]
        return row, None, None
    row["note"] = picture.note.encode()[:NOTE_BYTES]
    _describe_file(record, picture)
    square = resize(picture.pixels, measured_size)
    record["sharpness"] = _variance(cv2.Laplacian(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), cv2.CV_16S))
    small = cv2.blur(square, (3, 3))[1::3, 1::3]  # the result of INTER_AREA, in a third of the time
    if not image_size or picture.stored is not None:
        return row, small, None
    if decodes_alike(picture.header, measured_size, target_size):
        return row, small, resize(picture.pixels, target_size, fit)
    return row, small, _decoded(data, target_size, fit)


def _decoded(data: bytes, size: tuple[int, int], fit: str) -> np.ndarray | None:
    try:
        return decode_image(data, size, fit=fit).pixels
    except UnreadableImage:
        return None


def _describe_file(record: np.ndarray, picture: Picture) -> None:
    header = picture.header
    turned = header.orientation >= 5
    record["width"], record["height"] = (header.height, header.width) if turned else (header.width, header.height)
    record["kind"], record["orientation"] = KINDS.index(header.kind), header.orientation
    record["channels"], record["bits"] = picture.channels, picture.stored.bits if picture.stored else 8
    flags = {NOTED: picture.note, TRANSPARENT: picture.is_transparent, DEEP: picture.stored is not None}
    flags[ANIMATED] = header.frames > 1
    record["flags"] = sum(flag for flag, is_set in flags.items() if is_set)


def _describe_appearance(rows: np.ndarray, images: np.ndarray) -> None:
    """Measure small images (B, H, W, 3) RGB as a batch: one by one, the overhead of NumPy calls would dominate."""
    prints, number = rows["print"], len(images)
    # Stacked vertically they form a single image, for which OpenCV returns the same values as for each one alone.
    column = images.reshape(-1, *images.shape[2:])
    grey, red, green, blue = cv2.cvtColor(column, cv2.COLOR_RGB2GRAY), *cv2.split(column)
    rows["thumbnail"] = thumbnails = grey.reshape(images.shape[:3])
    prints["phash"], prints["dhash"] = _phash(grey, number), _dhash(grey, number)
    flat = thumbnails.reshape(number, -1)
    prints["brightness"], prints["contrast"] = np.round(flat.mean(axis=1)), np.round(flat.std(axis=1))
    size = flat.shape[1]
    places = size // 20, size - size // 20 - 1
    prints["shadow"], prints["light"] = np.partition(flat, places, axis=1)[:, places].T
    prints["colour"] = np.round([channel.reshape(number, -1).mean(axis=1) for channel in (red, green, blue)]).T
    spread = (cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)).reshape(number, -1)
    prints["saturation"] = np.round(spread.mean(axis=1))
    almost_all = size - size // 100 - 1
    is_grey = np.partition(spread, almost_all, axis=1)[:, almost_all] <= _MAX_SPREAD_OF_GREY
    prints["flags"] |= np.where(is_grey, GREY, 0).astype(np.uint8)
    frame = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)
    prints["border"] = np.round(frame.mean(axis=1))
    prints["border_contrast"] = np.round(frame.mean(axis=2).std(axis=1))


def _variance(pixels: np.ndarray) -> float:
    return cv2.norm(pixels) ** 2 / pixels.size - (cv2.sumElems(pixels)[0] / pixels.size) ** 2


def _phash(grey: np.ndarray, number: int) -> np.ndarray:
    """Return 64 bits (B,): which of the lowest 8 x 8 frequencies exceed their median (Zauner 2010, "pHash", 3.2)."""
    small = cv2.resize(grey, (32, 32 * number), interpolation=cv2.INTER_AREA).reshape(number, 32, 32)
    frequencies = (_COSINES @ small.astype(np.float32) @ _COSINES.T).reshape(number, 64)
    return _pack(frequencies > np.median(frequencies, axis=1, keepdims=True))


def _dhash(grey: np.ndarray, number: int) -> np.ndarray:
    """Return 64 bits (B,): where a 9 x 8 grid gets lighter to the right (Krawetz 2013, "Kind of Like That")."""
    small = cv2.resize(grey, (9, 8 * number), interpolation=cv2.INTER_AREA).reshape(number, 8, 9)
    return _pack((small[:, :, 1:] > small[:, :, :-1]).reshape(number, 64))


def _pack(signs: np.ndarray) -> np.ndarray:
    return np.packbits(signs, axis=1).view(">u8")[:, 0]
