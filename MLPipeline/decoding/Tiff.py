"""The first page of a TIFF file -> grey or RGB pixels, with what the tags say about them applied.

tifffile reads every layout (strips, tiles, planes, byte orders, BigTIFF) and imagecodecs every compression; they return
the samples as stored. What a sample means is decided here: which value is white, a palette, inks, and which band, if
any, is alpha (TIFF 6.0, PhotometricInterpretation and ExtraSamples).
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import simplejpeg

from MLPipeline.decoding.ColourProfile import lab_to_srgb, to_srgb
from MLPipeline.decoding.ImageHeader import MAX_PIXELS, ImageHeader, UnreadableImage
from MLPipeline.decoding.JpegStructure import END
from MLPipeline.decoding.OpenCv import cv2
from MLPipeline.decoding.StoredPixels import Alpha, StoredPixels

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_NUM_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
_OTHERS = {4: "a mask", 32803: "camera raw data", 32844: "LogL", 32845: "LogLuv", 34892: "camera raw data"}
_UNCOMPRESSED, _CCITT, _JPEGS = 1, (2, 3, 4), (6, 7)  # compressions
_STRAIGHT = 2
_ALPHAS: dict[int, Alpha] = {1: "premultiplied", _STRAIGHT: "straight"}  # ExtraSamples
_GDAL_NO_DATA = 42113  # the tag of GDAL, in GeoTIFF files: text
_WHITES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # where white may lie in floating-point pixels


def decode_tiff(data: bytes, header: ImageHeader) -> StoredPixels:
    """Return the pixels of the first page of a TIFF file.

    Raises:
        UnreadableImage: pixels are missing, or the page is of a kind that is not read; the reason says which.
        Exception: what tifffile and imagecodecs raise for a damaged file.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        _check(page, len(data))
        _check_segments(page, data)
        try:
            bands = _bands(page.asarray(maxworkers=1), page.axes)
        except (KeyError, NotImplementedError, ValueError) as error:
            if "support" in str(error):  # a compression or a layout for which there is no decoder
                raise UnreadableImage(f"TIFF: {str(error)[:80]}") from None
            raise
        return _interpret(bands, page, header)


def _check(page: Any, file_bytes: int) -> None:
    """Raise UnreadableImage for what is missing, too large, or no picture."""
    if page.photometric not in _NUM_COLOURS:
        kind = _OTHERS.get(int(page.photometric), f"PhotometricInterpretation {int(page.photometric)}")
        raise UnreadableImage(f"TIFF of {kind}: convert to JPEG or PNG")
    if page.imagedepth > 1:
        raise UnreadableImage(f"TIFF volume of {page.imagedepth} layers")
    if page.dtype is None or page.dtype.kind == "c":
        raise UnreadableImage(f"TIFF with {page.bitspersample}-bit samples of format {int(page.sampleformat)}")
    if page.size * page.dtype.itemsize > 4 * MAX_PIXELS:
        raise UnreadableImage(f"too large: {page.imagewidth}x{page.imagelength}")
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    num_expected = math.prod(page.chunked) if page.compression != _UNCOMPRESSED else 1
    if len(segments) < num_expected or any(count == 0 or start + count > file_bytes for start, count in segments):
        raise UnreadableImage("truncated TIFF")


def _check_segments(page: Any, data: bytes) -> None:
    """Raise UnreadableImage if pixels are missing in a strip or tile whose decoder fills them in without an error."""
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    if page.compression in _CCITT:  # missing pixels are those that depend on what follows the data
        for number, (start, count) in enumerate(segments):
            content = data[start : start + count]
            first, second = (page.decode(content + filling, number)[0] for filling in (bytes(16), b"\x55" * 16))
            if not np.array_equal(first, second):
                raise UnreadableImage("truncated TIFF")
    elif page.compression in _JPEGS:
        tables = page.jpegtables or b""
        for start, count in segments:
            content = tables.removesuffix(END) + data[start + 2 * bool(tables) : start + count]
            try:
                simplejpeg.decode_jpeg(content, strict=True)
            except ValueError as error:
                if "orrupt" in str(error) or "remature" in str(error):
                    raise UnreadableImage("truncated TIFF") from None


def _bands(samples: np.ndarray, axes: str) -> np.ndarray:
    """Return the samples as (H, W, bands)."""
    if axes == "SYX":
        return samples.transpose(1, 2, 0)
    if axes not in ("YX", "YXS"):
        raise UnreadableImage(f"TIFF with axes {axes}")
    return samples[:, :, None] if samples.ndim == 2 else samples


def _interpret(bands: np.ndarray, page: Any, header: ImageHeader) -> StoredPixels:
    """Return (H, W, bands) as grey or RGB, with alpha where there is some."""
    num_bands, extras = bands.shape[2], tuple(page.extrasamples)
    num_colours = _NUM_COLOURS[page.photometric]
    if page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and num_bands - sum(each in _ALPHAS for each in extras) >= 3:
        num_colours, extras = 3, extras[2:]  # bands of equal standing, of which the first three are shown
    if num_bands < num_colours:
        raise UnreadableImage(f"TIFF with {num_bands} of {num_colours} colours")
    if not extras and num_colours == 3 and num_bands == 4:
        extras = (_STRAIGHT,)  # the tag is missing: programs that write four bands without it mean alpha
    alpha_band = next((num_colours + place for place, each in enumerate(extras) if each in _ALPHAS), None)
    stored = _colours(bands[:, :, :num_colours], page, header)
    num_left_out = num_bands - num_colours - (alpha_band is not None)
    is_guess = num_left_out or (num_colours == 3 and page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO))
    note = f"{num_bands} bands: the first {num_colours} are used" if is_guess else ""
    if alpha_band is None or alpha_band >= num_bands:
        return replace(stored, note=note)
    opacity = _scaled(bands[:, :, alpha_band], page.bitspersample, stored.pixels.dtype)
    pixels = np.dstack([stored.pixels] * (3 if stored.pixels.ndim == 2 else 1) + [opacity])
    return replace(stored, pixels=pixels, alpha=_ALPHAS[extras[alpha_band - num_colours]], note=note)


def _colours(bands: np.ndarray, page: Any, header: ImageHeader) -> StoredPixels:
    """Return the bands of colour as grey or RGB."""
    bits = page.bitspersample
    if page.photometric == PALETTE:
        colours = page.colormap.T  # (colours, 3) uint16
        colours = colours >> 8 if colours.max() > 255 else colours  # some programs write 8 bits here too
        return StoredPixels(colours.astype(np.uint8)[np.minimum(bands[:, :, 0], len(colours) - 1)], 8, header)
    if page.photometric == CMYK:
        pixels, note = to_srgb(np.ascontiguousarray(_scaled(bands, bits, np.dtype(np.uint8))), header.profile)
        header = replace(header, channels=4, profile=b"", note=note if header.profile else "")
        return StoredPixels(pixels, 8, header)
    if page.photometric in (CIELAB, ICCLAB):
        if bits != 8:
            raise UnreadableImage(f"TIFF of {bits}-bit Lab colours: convert to JPEG or PNG")
        signed = bands if page.photometric == CIELAB else bands ^ np.array([0, 128, 128], np.uint8)
        return StoredPixels(lab_to_srgb(signed.view(np.uint8)), 8, replace(header, profile=b""))
    if page.photometric == YCBCR and page.compression not in _JPEGS:  # the decoder of JPEG returns RGB
        light = np.ascontiguousarray(_scaled(bands, bits, np.dtype(np.uint8))[:, :, [0, 2, 1]])
        return StoredPixels(cv2.cvtColor(light, cv2.COLOR_YCrCb2RGB), 8, header)
    is_negative = page.photometric == WHITE_IS_ZERO
    pixels, bits = _grey_or_rgb(bands, bits, is_negative)
    no_data = None if is_negative else _no_data(page)
    pixels = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return StoredPixels(pixels, bits, header, no_data=no_data)


def _no_data(page: Any) -> float | None:
    """Return the value of samples that were not measured, such as -9999; None where the file names none."""
    tag = page.tags.get(_GDAL_NO_DATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _grey_or_rgb(bands: np.ndarray, bits: int, is_negative: bool) -> tuple[np.ndarray, int]:
    """Return the samples with 0 as black, in a type that holds them all, and their significant bits."""
    if bands.dtype.kind == "f":
        pixels = bands.astype(np.float32) if bits < 32 else bands
        if is_negative:
            brightest = np.max(pixels, initial=0, where=np.isfinite(pixels))
            pixels = next((white for white in _WHITES if brightest <= white), brightest) - pixels
        return pixels, bits
    if bands.dtype.kind == "i":
        bits -= 1  # without the sign
        if is_negative:
            return 2**bits - 1 - bands.astype(np.int32 if bits < 16 else np.int64), bits
        return bands.astype(np.int16) if bits < 8 else bands, bits
    if bands.dtype.kind == "b":
        bands = bands.astype(np.uint8)
    if is_negative:
        bands = bands.dtype.type(2**bits - 1) - bands
    return (bands, bits) if bits >= 8 else (_scaled(bands, bits, np.dtype(np.uint8)), 8)


def _scaled(samples: np.ndarray, bits: int, dtype: np.dtype) -> np.ndarray:
    """Return unsigned samples of so many bits in the full range of `dtype`; floating-point ones as they are."""
    if samples.dtype.kind == "f" and dtype.kind == "f":
        return samples.astype(dtype)
    full = 1.0 if samples.dtype.kind == "f" else 2.0 ** (bits - (samples.dtype.kind == "i")) - 1
    top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    if full == top:
        return samples.astype(dtype)
    return np.round(np.clip(samples.astype(np.float64) * (top / full), 0, top)).astype(dtype)
