"""Which values of pictures with more than 8 bits are shown as black and as white: one decision for a whole data set.

    levels = find_levels(depths, lows, highs)         # of the training images, from what inspecting each file has found
    pixels, note = to_8_bits(stored, levels)          # the same levels for every picture, from then on

A file alone cannot say what white is: the brightest pixel of a dark picture is not white, and a hot pixel of the sensor
even less so. Per file only the range of its values is measured, without the few most extreme ones; the levels follow
from the ranges of all files. They are stored in `model.pt` and used by every command that uses the model.

Each depth has its own levels. 8-bit pictures are used as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from MLPipeline.decoding.ImageHeader import UnreadableImage
from MLPipeline.decoding.StoredPixels import StoredPixels
from MLPipeline.files.PlainValues import is_number

LEVELS_FILE = "levels.json"  # in the folder of a run, where there are any
# The largest values of 8, 10, 12, 14 and 16 bits: cameras and scanners store 10, 12 or 14 bits in 16.
_USUAL_WHITES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_USED_AT_LEAST = 0.5  # of the range from 0 to white; if pictures use less, their own range is stretched
_MOST_EXTREME = 1 / 500, 8  # share of a picture's values that count as outliers at either end, and their least number
_EXTREME_FILES = 1 / 50, 10  # share of the files that may be outliers; at least one of this many
_MAX_MEASURED = 2**18  # values of a picture; of a larger one those of every second, third, ... pixel
_KEY_BYTES = 16
_LARGEST_VALUE = 1e300  # of a picture with floating-point numbers


@dataclass(frozen=True)
class Level:
    """The values that become 0 and 255."""

    black: float
    white: float


@dataclass(frozen=True)
class Levels:
    """The level of each depth that a data set contains; see `depth_of` for their names."""

    by_depth: Mapping[str, Level] = field(default_factory=dict)
    notes_unknown: bool = field(default=True, compare=False)  # whether to note pictures of any other depth

    def key(self, content: bytes) -> bytes:
        """Return the cache key of a deeper picture at these levels; `content` is the digest of its file."""
        return hashlib.blake2b(content + repr(self.to_plain()).encode(), digest_size=_KEY_BYTES).digest()

    def changes(self, depths: Sequence[str], lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return factors and summands (N,) that turn greys at the level of a picture's own values into greys at these.

        The arguments are those of `find_levels`.
        """
        own = [level_of(*each) for each in zip(depths, lows.tolist(), highs.tolist(), strict=True)]
        new = [self.by_depth.get(depth, level) for depth, level in zip(depths, own, strict=True)]
        (old_black, old_white), (black, white) = (
            np.array([(level.black, level.white) for level in levels]).reshape(-1, 2).T for levels in (own, new)
        )
        return (old_white - old_black) / (white - black), 255 * (old_black - black) / (white - black)

    def lines(self) -> list[str]:
        """Return one sentence per depth whose values do not simply run from 0 to the largest possible one."""
        return [
            f"{_spoken(depth)} pictures: {level.black:.6g} shown as black, {level.white:.6g} as white"
            + _share(depth, level)
            for depth, level in self.by_depth.items()
            if level != Level(0.0, _largest(depth))
        ]

    def to_plain(self) -> dict[str, list[float]]:
        """Return {depth: [black, white]}, as checkpoints and JSON files hold it."""
        return {depth: [level.black, level.white] for depth, level in sorted(self.by_depth.items())}

    @classmethod
    def from_plain(cls, stored: Any) -> Levels:
        """Return the levels that `to_plain` has described."""
        assert are_levels(stored)
        return cls({depth: Level(*map(float, pair)) for depth, pair in stored.items()})


EACH_ITS_OWN = Levels(notes_unknown=False)  # each picture is shown at the level of its own values


def depth_of(stored: StoredPixels) -> str:
    """Return the name of the depth: `uint16`, `uint16 of 12 bits`, `int32`, `float`; empty for 8 bits."""
    dtype = stored.pixels.dtype
    if dtype == np.uint8:
        return ""
    if stored.is_float:
        return "float"
    is_full = stored.bits >= dtype.itemsize * 8 - (dtype.kind == "i")  # without the sign
    return dtype.name if is_full else f"{dtype.name} of {stored.bits} bits"


def value_range(stored: StoredPixels) -> tuple[float, float]:
    """Return the lowest and the highest value of the colours, without the most extreme 0.2 % at either end.

    Pixels that are wholly transparent or without data do not count, unless there are no others.

    Raises:
        UnreadableImage: no value is a finite number.
    """
    colours = _colours(stored)
    pixels = stored.pixels.reshape(stored.pixels.shape[0] * stored.pixels.shape[1], -1)
    pixels = pixels[:: -(-colours.size // _MAX_MEASURED)]  # whole pixels: each colour counts alike
    if stored.alpha != "none":
        pixels = _unless_empty(pixels[pixels[:, 3] > 0], pixels)[:, :3]
    values = pixels.reshape(-1)
    if stored.no_data is not None:
        values = _unless_empty(values[values != stored.no_data], values)
    if stored.is_float:
        _require_number(values)
        values = values[np.isfinite(values)]
    share, least = _MOST_EXTREME
    return _trimmed(values, max(least, int(share * len(values))))


def find_levels(depths: Sequence[str], lows: np.ndarray, highs: np.ndarray) -> Levels:
    """Return the levels of a data set from the depth (`depth_of`) and the `value_range` of each of its files.

    All have the length N; files of 8 bits are left out, or have the depth "".
    """
    names = np.array(depths, dtype=object)
    found = {}
    for depth in sorted(set(depths) - {""}):
        chosen = names == depth
        found[depth] = level_of(depth, *_common_range(lows[chosen], highs[chosen]))
    return Levels(found)


def level_of(depth: str, low: float, high: float) -> Level:
    """Return the level for pictures whose values run from `low` to `high`.

    Black is 0, white the largest value of 8, 10, 12, 14, 16, ... bits, the first that is not below `high`; if the
    pictures use less than half of that range, or negative values, black is `low` and white is `high`.
    """
    white = next((white for white in _whites(depth) if white >= high), None)
    if white is not None and low >= 0 and (high - low >= _USED_AT_LEAST * white or high == low):
        return Level(0.0, white)
    return Level(low, high if high > low else low + 1)


def to_8_bits(stored: StoredPixels, levels: Levels | None) -> tuple[np.ndarray, str]:
    """Return the pixels as uint8, of the same shape, and a note where the level is a guess from this file alone.

    Without `levels`, as in models trained before there were any, the brightest pixel decides what white is.

    Raises:
        UnreadableImage: no value is a finite number.
    """
    if not (depth := depth_of(stored)):
        return stored.pixels, ""
    colours = _colours(stored)
    if levels is None:
        colours = _all_finite(colours) if stored.is_float else colours
        level, note = _level_by_brightest(colours, _largest(depth))
    elif depth in levels.by_depth:
        level, note = levels.by_depth[depth], ""
    else:
        level = level_of(depth, *value_range(stored))
        note = unknown_depth(depth) if levels.notes_unknown else ""
    if stored.is_float:
        _require_number(colours)
    scaled = _scale(colours, level)
    if stored.alpha == "none":
        return scaled, note
    opaque = Level(0.0, 1.0 if stored.is_float else float(np.iinfo(stored.pixels.dtype).max))
    return np.dstack([scaled, _scale(stored.pixels[:, :, 3], opaque)]), note


def unknown_depth(depth: str) -> str:
    """Return the note on a picture of a depth for which a model has no level."""
    return f"{_spoken(depth)} values, which the model was not trained on: shown at the range of this file alone"


def _all_finite(values: np.ndarray) -> np.ndarray:
    """Return `values` with their highest number for infinity, and their lowest for what is no number."""
    _require_number(values)
    finite = values[np.isfinite(values)]
    return np.nan_to_num(values, nan=finite.min(), posinf=finite.max(), neginf=finite.min())


def _require_number(values: np.ndarray) -> None:
    if not np.isfinite(values).any():
        raise UnreadableImage("not a number in any pixel")


def _unless_empty(chosen: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    return chosen if len(chosen) else all_of_them


def _level_by_brightest(values: np.ndarray, full: float) -> tuple[Level, str]:
    whites = dict.fromkeys((1.0, *_USUAL_WHITES) if full == 1 else (*_USUAL_WHITES, full))
    black, brightest = min(0.0, float(values.min())), float(values.max())
    white = next((white for white in whites if white / 4 <= brightest <= white), brightest or min(whites))
    if (black, white) == (0.0, full):
        return Level(black, white), ""
    return Level(black, white), f"{values.dtype} pixels: {black:g} shown as black, {white:g} as white"


def _colours(stored: StoredPixels) -> np.ndarray:
    return stored.pixels if stored.alpha == "none" else stored.pixels[:, :, :3]


def _scale(values: np.ndarray, level: Level) -> np.ndarray:
    """Return `values` as uint8, black as 0 and white as 255; what is not a number is black."""
    span = level.white - level.black or 1.0
    if values.dtype == np.uint16:
        table = (np.arange(2**16) - level.black) * (255 / span)
        return np.rint(table.clip(0, 255)).astype(np.uint8)[values]
    scaled = (values.astype(np.float64) - level.black) * (255 / span)
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 255)).astype(np.uint8)


def _common_range(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """Return the range of the values of all files (N,), without the few files that lie far away from all others."""
    share, enough = _EXTREME_FILES
    dropped = max(int(share * len(lows)), int(len(lows) >= enough))
    low, high = _trimmed(lows, dropped)[0], _trimmed(highs, dropped)[1]
    span = high - low
    return float(lows[lows >= low - span].min()), float(highs[highs <= high + span].max())


def _trimmed(values: np.ndarray, num_dropped: int) -> tuple[float, float]:
    """Return the lowest and the highest of `values` (N,) but for `num_dropped` at either end, at most a quarter."""
    last = len(values) - 1
    dropped = min(num_dropped, last // 4)
    sorted_there = np.partition(values, (dropped, last - dropped))
    return float(sorted_there[dropped]), float(sorted_there[last - dropped])


def _whites(depth: str) -> Iterator[float]:
    """Yield the values that white may have, in ascending order."""
    if depth == "float":
        yield from (1.0, *_USUAL_WHITES)
    elif " of " in depth:  # the file states it
        yield _largest(depth)
    else:
        yield from (white for white in _USUAL_WHITES if white < _largest(depth))
        yield _largest(depth)


def _largest(depth: str) -> float:
    """Return the largest value of a depth; of floating-point numbers, 1."""
    if depth == "float":
        return 1.0
    name, _, stated = depth.partition(" of ")
    return 2.0 ** int(stated.split()[0]) - 1 if stated else float(np.iinfo(name).max)


def _spoken(depth: str) -> str:
    if depth == "float":
        return "floating-point"
    name, _, stated = depth.partition(" of ")
    bits = stated.split()[0] if stated else name.lstrip("uint")
    return f"{bits}-bit" if name.startswith("u") else f"signed {bits}-bit"


def _share(depth: str, level: Level) -> str:
    """Return how much of their range the pictures use, where it was stretched for that reason."""
    if level.black == 0 or depth == "float":
        return ""
    return f" (they use {100 * (level.white - level.black) / _largest(depth):.2g} % of the range)"


def are_levels(stored: Any) -> bool:
    """Return whether `stored`, which may come from any file, describes levels as `to_plain` does."""
    return isinstance(stored, dict) and all(map(_is_level, stored.items()))


def _is_level(item: tuple[Any, Any]) -> bool:
    depth, pair = item
    return (
        isinstance(depth, str)
        and re.fullmatch(r"float|u?int(8|16|32|64)( of \d\d? bits)?", depth) is not None
        and isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(is_number(value, -_LARGEST_VALUE, _LARGEST_VALUE) for value in pair)
        and float(pair[0]) < float(pair[1])
    )
