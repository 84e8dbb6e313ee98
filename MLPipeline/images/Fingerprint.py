"""The bytes of an image file -> one packed record of what can be said of the image without a model.

A record holds what tells one image from another (`digest`, `phash`, `dhash`), what the file is (`width` to `flags`),
and how it looks (`brightness` to `border_contrast`). Beside it a row keeps a small grey picture, to compare images
that may be the same, and the remark or the reason why the file is not used. Rows are cached by what the file contains.
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

FORMAT = 2  # goes up with every change of what a row holds or means
KINDS = ("", *PARSERS)  # "JPEG", "PNG", ...; what `kind` counts
SIDE = 192  # the picture that is measured, squeezed into a square; 1.5 ms to decode where 256 takes 3.6
THUMBNAIL_SIDE = SIDE // 3
NOTE_BYTES = 120
_COSINES = np.array(  # rows 1 to 8 of the 32-point cosine transform (DCT-II)
    [[np.cos(np.pi * (2 * place + 1) * wave / 64) / 4 for place in range(32)] for wave in range(1, 9)], np.float32
)
_COLOUR_OF_GREY = 8  # distance between red, green and blue that JPEG leaves in a grey picture

# Bits of `flags`.
UNREADABLE = 1  # not used; all of the record but `digest`, `size` and `flags` is 0
NOTED = 2  # used, but odd: `note` says how
GREY = 4  # without colour, however it is stored
TRANSPARENT = 8  # some of it lets white shine through
DEEP = 16  # more than 8 bits a channel
ANIMATED = 32  # several frames or pages, of which the first is used

FINGERPRINT = np.dtype(
    [
        ("digest", f"V{DIGEST_BYTES}"),  # of the file's bytes: equal for exact duplicates alone
        ("phash", "<u8"),  # 64 bits, nearly all equal for near duplicates: the coarse shapes
        ("dhash", "<u8"),  # 64 bits likewise: where it gets lighter from left to right
        ("width", "<u4"),  # pixels of the upright picture, before any resizing
        ("height", "<u4"),
        ("size", "<u4"),  # bytes of the file
        ("sharpness", "<f4"),  # variance of the Laplacian of the grey picture at SIDE x SIDE
        ("kind", "u1"),  # position in KINDS
        ("orientation", "u1"),  # EXIF number 1 to 8, as stored; 1 is upright
        ("channels", "u1"),  # as stored: 1 grey, 3 colour or palette, 4 with alpha or CMYK
        ("bits", "u1"),  # of a channel as stored: 8 for 1 to 8, then 10, 12, 14, 16, 32 or 64
        ("flags", "u1"),
        ("brightness", "u1"),  # mean of the small grey picture, 0 to 255
        ("contrast", "u1"),  # its standard deviation
        ("shadow", "u1"),  # the grey that 5 % of the pixels stay below
        ("light", "u1"),  # the grey that 5 % of the pixels lie above
        ("colour", "u1", 3),  # mean red, green, blue
        ("saturation", "u1"),  # mean distance from the largest to the smallest of red, green, blue
        ("border", "u1", 3),  # mean red, green, blue of the outermost 1.6 %
        ("border_contrast", "u1"),  # standard deviation there: 0 for a frame or background of one colour
    ]
)
ROW = np.dtype(
    [
        ("print", FINGERPRINT),
        ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)),
        ("note", f"S{NOTE_BYTES}"),
        # Of pictures with more than 8 bits, whose looks above are measured at the level of their own values.
        ("depth", "S20"),  # see `depth_of`
        ("low", "<f8"),  # see `value_range`
        ("high", "<f8"),
    ]
)
IDENTITY = f"{FORMAT} {ROW.descr} {SIDE} {DECODER}"  # all that a row depends on besides the image file


def make_rows(
    files: Iterable[bytes], image_size: int = 0, fit: str = STRETCH
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Return the rows (B,) ROW of image files, given as bytes, readable or not; and their pixels, decoded on the way.

    These are (image_size, image_size, 3) uint8, the same as `decode_image` gives; None where they are not wanted, the
    file is unreadable, or has more than 8 bits: how bright that is depends on all files.
    """
    made = [_make_row(data, image_size, fit) for data in files]
    rows = np.array([row for row, _, _ in made], ROW)
    small = [thumbnail for _, thumbnail, _ in made if thumbnail is not None]
    if small:
        readable = (rows["print"]["flags"] & UNREADABLE) == 0
        look = rows[readable]
        _describe_look(look, np.stack(small))
        rows[readable] = look
    return rows, [pixels for _, _, pixels in made]


def _make_row(data: bytes, image_size: int, fit: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return a row (ROW, shape ()) that still lacks the looks, the small picture they are measured on, the pixels."""
    row = np.zeros((), ROW)
    record, side, wanted = row["print"], (SIDE, SIDE), (image_size, image_size)
    record["digest"], record["size"] = np.void(digest(data)), len(data)
    try:
        picture = decode_for(data, side, EACH_ITS_OWN)
        if picture.stored is not None:
            row["depth"], (row["low"], row["high"]) = depth_of(picture.stored).encode(), value_range(picture.stored)
    except UnreadableImage as error:
        record["flags"], row["note"] = UNREADABLE, error.reason.encode()[:NOTE_BYTES]
        return row, None, None
    row["note"] = picture.note.encode()[:NOTE_BYTES]
    _describe_file(record, picture)
    squeezed = resize(picture.pixels, side)
    record["sharpness"] = _variance(cv2.Laplacian(cv2.cvtColor(squeezed, cv2.COLOR_RGB2GRAY), cv2.CV_16S))
    small = cv2.blur(squeezed, (3, 3))[1::3, 1::3]  # what INTER_AREA makes of it, in a third of the time
    if not image_size or picture.stored is not None:
        return row, small, None
    if decodes_alike(picture.header, side, wanted):
        return row, small, resize(picture.pixels, wanted, fit)
    return row, small, _decoded(data, wanted, fit)


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


def _describe_look(rows: np.ndarray, pictures: np.ndarray) -> None:
    """Measure small pictures (B, H, W, 3) RGB, all in one go: one by one, calling numpy costs more than measuring."""
    prints, number = rows["print"], len(pictures)
    # One below the other they are one picture, of which OpenCV makes what it would make of each.
    column = pictures.reshape(-1, *pictures.shape[2:])
    grey, red, green, blue = cv2.cvtColor(column, cv2.COLOR_RGB2GRAY), *cv2.split(column)
    rows["thumbnail"] = thumbnails = grey.reshape(pictures.shape[:3])
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
    is_grey = np.partition(spread, almost_all, axis=1)[:, almost_all] <= _COLOUR_OF_GREY
    prints["flags"] |= np.where(is_grey, GREY, 0).astype(np.uint8)
    frame = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, 1:-1, 0], pictures[:, 1:-1, -1]], axis=1)
    prints["border"] = np.round(frame.mean(axis=1))
    prints["border_contrast"] = np.round(frame.mean(axis=2).std(axis=1))


def _variance(pixels: np.ndarray) -> float:
    return cv2.norm(pixels) ** 2 / pixels.size - (cv2.sumElems(pixels)[0] / pixels.size) ** 2


def _phash(grey: np.ndarray, number: int) -> np.ndarray:
    """Return 64 signs (B,): which of the lowest 8 x 8 frequencies exceed their median (Zauner 2010, "pHash", 3.2)."""
    small = cv2.resize(grey, (32, 32 * number), interpolation=cv2.INTER_AREA).reshape(number, 32, 32)
    frequencies = (_COSINES @ small.astype(np.float32) @ _COSINES.T).reshape(number, 64)
    return _pack(frequencies > np.median(frequencies, axis=1, keepdims=True))


def _dhash(grey: np.ndarray, number: int) -> np.ndarray:
    """Return 64 signs (B,): is it lighter to the right, on a grid of 9 x 8 (Krawetz 2013, "Kind of Like That")?"""
    small = cv2.resize(grey, (9, 8 * number), interpolation=cv2.INTER_AREA).reshape(number, 8, 9)
    return _pack((small[:, :, 1:] > small[:, :, :-1]).reshape(number, 64))


def _pack(signs: np.ndarray) -> np.ndarray:
    return np.packbits(signs, axis=1).view(">u8")[:, 0]
