"""Images that look unlike the others of the data set: blank, dark, bright, blurred, of another size or shape.

Not by a fixed rule, which a folder of night shots or of icons would break, but by the distance from the median in units
of the median absolute deviation (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers": 3.5 is far).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MLPipeline.images.Fingerprint import DEEP

FAR = 3.5
BLANK = 6  # standard deviation of the greys, of 255, below which there is nothing to see
DARK, LIGHT = 60, 205  # greys that 95 % of the pixels lie below, or above
# One deviation is this at least, however alike the images are: natural logarithms of pixels, of long by short side, of
# sharpness; greys.
_AREA, _SHAPE, _SHARPNESS, _GREYS = 0.4, 0.15, 0.3, 10.0

_UNLESS_SEEN_IN_USE = "Delete them unless the model will see such images in use."
# Title; what is said if it holds for much of the set; what to do if it is rare.
_WORDS = {
    "blank": ("Blank images", "blank", "They show nothing to learn from: delete them."),
    "dark": ("Dark images", "dark", _UNLESS_SEEN_IN_USE),
    "light": ("Bright images", "very bright", _UNLESS_SEEN_IN_USE),
    "blurred": ("Blurred images", "blurred", _UNLESS_SEEN_IN_USE),
    "size": (
        "Unusual sizes",
        "much larger or smaller than the others",
        "Check whether thumbnails or scans are among the photographs.",
    ),
    "shape": (
        "Unusual proportions",
        "much longer in one direction than the others",
        "Resizing distorts them: crop them, or train with --fit pad.",
    ),
}


@dataclass(frozen=True)
class Oddity:
    """A way to be unlike the others, and the images that are."""

    name: str
    title: str
    common: str  # what is said if it holds for much of the set
    advice: str  # what to do if it is rare
    places: np.ndarray  # (M,) in the records given, the oddest first
    texts: tuple[str, ...]  # what is odd about each


def find_odd_images(prints: np.ndarray) -> list[Oddity]:
    """Return what is odd among the FINGERPRINT records (N,) of images that can be read; kinds without any included."""
    width, height = prints["width"].astype(float), prints["height"].astype(float)
    brightness, contrast = prints["brightness"].astype(float), prints["contrast"].astype(float)
    area, elongation = deviations(np.log(width * height), _AREA), deviations(np.abs(np.log(width / height)), _SHAPE)
    grey = deviations(brightness, _GREYS)
    sharpness = deviations(np.log(prints["sharpness"] + 1e-3), _SHARPNESS)
    # The greys of pictures with more than 8 bits are relative to all of them: black may be 300 K.
    is_deep = (prints["flags"] & DEEP) > 0
    seen = contrast >= np.where(is_deep, 1, BLANK)  # what is blank is dark, light and blurred as well
    sizes = [f"{w:.0f} x {h:.0f} pixels" for w, h in zip(width, height, strict=True)]
    greys = [f"mean grey {value:.0f} of 255" for value in brightness]
    blur = [f"sharpness {value:.3g}, median {np.median(prints['sharpness']):.3g}" for value in prints["sharpness"]]

    def oddity(name: str, is_odd: np.ndarray, by: np.ndarray, texts: Sequence[str]) -> Oddity:
        places = np.flatnonzero(is_odd)
        places = places[np.argsort(-by[places], kind="stable")]
        return Oddity(name, *_WORDS[name], places, tuple(texts[place] for place in places.tolist()))

    dark = seen & (((prints["light"] < DARK) & ~is_deep) | (grey < -FAR))
    light = seen & (((prints["shadow"] > LIGHT) & ~is_deep) | (grey > FAR))
    return [
        oddity("blank", ~seen, -contrast, greys),
        oddity("dark", dark, -grey, greys),
        oddity("light", light, grey, greys),
        oddity("blurred", seen & (sharpness < -FAR), -sharpness, blur),
        oddity("size", np.abs(area) > FAR, np.abs(area), sizes),
        oddity("shape", elongation > FAR, elongation, sizes),
    ]


def deviations(values: np.ndarray, least: float) -> np.ndarray:
    """Return how far each of `values` (N,) lies from their median, in robust deviations of `least` or more."""
    distance = values - np.median(values)
    return distance / max(1.4826 * float(np.median(np.abs(distance))), least)
