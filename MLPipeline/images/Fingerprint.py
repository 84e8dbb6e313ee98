"""The bytes of an image file -> one packed record of what can be said of the image without a model.

A record holds what tells one image from another (`digest`, `phash`, `dhash`), what the file is (`width` to `flags`),
and how it looks (`brightness` to `border_contrast`). Beside it a row keeps a small grey picture, to compare images
that may be the same, and the remark or the reason why the file is not used. Rows are cached by what the file contains.
"""

from __future__ import annotations

import numpy as np

from MLPipeline.files.Cache import DIGEST_BYTES, digest
from MLPipeline.images.ImageHeader import PARSERS
from MLPipeline.images.ReadImage import DECODER, Picture, UnreadableImage, cv2, decode_image

FORMAT = 1  # goes up with every change of what a row holds or means
KINDS = ("", *PARSERS)  # "JPEG", "PNG", ...; what `kind` counts
SIDE = 192  # the picture that is measured, squeezed into a square; 1.5 ms to decode where 256 takes 3.6
THUMBNAIL_SIDE = 64
NOTE_BYTES = 120
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
    [("print", FINGERPRINT), ("thumbnail", "u1", (THUMBNAIL_SIDE, THUMBNAIL_SIDE)), ("note", f"S{NOTE_BYTES}")]
)
IDENTITY = f"{FORMAT} {ROW.descr} {SIDE} {DECODER}"  # all that a row depends on besides the image file


def make_row(data: bytes) -> np.ndarray:
    """Return the row (ROW, shape ()) of the image file whose bytes are `data`, be it readable or not."""
    row = np.zeros((), ROW)
    record = row["print"]
    record["digest"], record["size"] = np.void(digest(data)), len(data)
    try:
        picture = decode_image(data, (SIDE, SIDE))
    except UnreadableImage as error:
        record["flags"], row["note"] = UNREADABLE, error.reason.encode()[:NOTE_BYTES]
        return row
    row["note"] = picture.note.encode()[:NOTE_BYTES]
    small = cv2.resize(picture.pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    row["thumbnail"] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    record["sharpness"] = _mean_and_deviation(laplacian)[1] ** 2
    record["phash"], record["dhash"] = _phash(row["thumbnail"]), _dhash(row["thumbnail"])
    _describe_file(record, picture)
    _describe_look(record, small, row["thumbnail"])
    return row


def _describe_file(record: np.ndarray, picture: Picture) -> None:
    header = picture.header
    turned = header.orientation >= 5
    record["width"], record["height"] = (header.height, header.width) if turned else (header.width, header.height)
    record["kind"], record["orientation"] = KINDS.index(header.kind), header.orientation
    record["channels"] = picture.channels
    flags = {NOTED: picture.note, TRANSPARENT: picture.is_transparent, DEEP: header.channel_bytes > 1}
    flags[ANIMATED] = header.frames > 1
    record["flags"] = sum(flag for flag, is_set in flags.items() if is_set)


def _describe_look(record: np.ndarray, pixels: np.ndarray, grey: np.ndarray) -> None:
    """Measure the small picture: (H, W, 3) RGB and (H, W)."""
    record["brightness"], record["contrast"] = np.round(_mean_and_deviation(grey))
    levels = np.sort(grey, axis=None, kind="stable")
    record["shadow"], record["light"] = levels[len(levels) // 20], levels[-len(levels) // 20]
    record["colour"] = np.round(cv2.mean(pixels)[:3])
    red, green, blue = cv2.split(pixels)
    spread = np.sort(cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue), axis=None, kind="stable")
    record["saturation"] = round(spread.mean())
    if spread[-len(spread) // 100] <= _COLOUR_OF_GREY:
        record["flags"] |= GREY
    frame = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    record["border"] = np.round(frame.mean(axis=0))
    record["border_contrast"] = round(frame.mean(axis=1).std())


def _mean_and_deviation(pixels: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(pixels)
    return mean[0, 0], deviation[0, 0]


def _phash(thumbnail: np.ndarray) -> int:
    """Return 64 signs: which of the lowest 8 x 8 frequencies exceed their median (Zauner 2010, "pHash", 3.2)."""
    small = cv2.resize(thumbnail, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small)[1:9, 1:9]
    return _pack(frequencies > np.median(frequencies))


def _dhash(thumbnail: np.ndarray) -> int:
    """Return 64 signs: whether it gets lighter to the right, on a grid of 9 x 8 (Krawetz 2013, "Kind of Like That")."""
    small = cv2.resize(thumbnail, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return _pack(small[:, 1:] > small[:, :-1])


def _pack(signs: np.ndarray) -> int:
    return int.from_bytes(np.packbits(signs).tobytes(), "big")
