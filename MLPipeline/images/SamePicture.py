"""Two pictures -> whether one is a copy of the other: no part of them differs by more than copying explains.

    first  --moved, stretched and relit to fit-->  prediction  --compared place by place, in light and colour-->  second

Copying may rescale a picture, crop a few per cent, compress it, change its brightness and contrast, or drop its colour.
It does not light a lamp, tick a box or change a digit; a mirrored picture is no copy either. Small versions of the
pictures are compared first, because most pairs differ there already; a tick on a form shows only at the larger size.

Legend: H, W are the sides of the second picture in pixels, N = H * W. A motion is (shift x, stretch x, shift y,
stretch y) in halves of these sides: at u, from -1 to 1, lies what the first picture has at u * (1 + stretch) + shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from MLPipeline.decoding.ReadImage import cv2, resize

SIDES = (128, 640)  # longest sides at which two pictures are compared
READ_SIDE = 704  # pixels the longest side needs so that what is left after cropping still has 640
MAX_STRETCH, MAX_SHIFT = 0.09, 0.02  # cropping 3 % on every side stretches by 0.06; beyond what cropping explains
GAINS = (0.55, 1.8)  # brightness and contrast both lowered by 20 % give 0.64, both raised 1.44

# How far copies may differ, in levels of 255: (in smooth parts, in addition per level of local standard deviation).
# Measured on photographs, documents and drawn scenes that were rescaled by 0.5 to 1.5, saved as JPEG of quality 30 to
# 95, cropped by 3 %, relit by 20 %, and two of these together.
MAX_STROKE = (32.0, 0.25)  # beyond the darkest and lightest of the 3 x 3 pixels around
MAX_SHADE = (4.0, 0.7)  # mean of 9 x 9 pixels
MAX_WIDE_SHADE = (2.0, 0.3)  # mean of 25 x 25 pixels
MAX_COLOUR = (15.0, 0.8)  # mean of 5 x 5 pixels, of Cr and Cb
MIN_NOISE, MAX_SHARED_NOISE, MAX_NOISY = 6.0, 0.15, 0.28  # variance; correlation; share of the pixels

_DARK, _LIGHT = 4, 251  # levels at which darker or lighter parts may have been clipped
_GREY, _COLOURED, _MIN_COLOURED = 8.0, 12.0, 0.2  # colour of a grey version; of its original, in this share of it
_AROUND = np.ones((3, 3), np.uint8)
_TONE_SIDE = 64  # pixels; averaged, so that blur and noise do not bias the gain
_MARGIN = 0.035  # left out on every side while aligning: it may have been cropped


@dataclass(frozen=True)
class _Planes:
    """A picture as light and colour, and how much both vary around each pixel."""

    light: np.ndarray  # (H, W) float32, 0 to 255
    colours: tuple[np.ndarray, np.ndarray]  # Cr and Cb, likewise
    light_texture: np.ndarray  # standard deviation within 9 x 9 pixels, likewise
    colour_texture: np.ndarray


def is_same_picture(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two pictures (H, W, 3) uint8 RGB, of any sizes, are copies of one picture."""
    if max(first.shape) < max(second.shape):
        first, second = second, first
    motion = np.zeros(4)
    for side in SIDES:
        target = _shrink(second, side)
        motion = _align(first, target, motion, is_rough=side == SIDES[0])
        if not _is_cropping(motion) or _differs(first, target, motion):
            return False
        if max(second.shape) <= side:
            break
    return True


def _shrink(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))


def _is_cropping(motion: np.ndarray) -> bool:
    """Return whether one of the pictures lies within the other."""
    shift, stretch = np.abs(motion[::2]), motion[1::2]
    is_within = bool(np.all(shift + stretch <= MAX_SHIFT)) or bool(np.all(shift - stretch <= MAX_SHIFT))
    return is_within and bool(np.all(np.abs(stretch) <= MAX_STRETCH))


# ---- alignment ------------------------------------------------------------------------------------------------------


def _align(first: np.ndarray, second: np.ndarray, motion: np.ndarray, is_rough: bool) -> np.ndarray:
    """Return the motion (4,) by which `first` fits `second`, starting from `motion`; found from coarse to fine."""
    full = second.shape[1], second.shape[0]
    sizes = [((48, 48), 4), (full, 6)] if is_rough and min(full) > 48 else [(full, 6 if is_rough else 2)]
    grey = cv2.cvtColor(second, cv2.COLOR_RGB2GRAY)
    for size, num_steps in sizes:
        target = _blurred(resize(grey, size))
        source = _blurred(cv2.cvtColor(_scaled(first, size, motion), cv2.COLOR_RGB2GRAY))
        for _ in range(num_steps):
            step = _step(_warp(source, motion, size), target)
            motion = motion + step
            if np.abs(step).max() * max(size) < 0.1:  # a twentieth of a pixel
                break
    return motion


def _step(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the motion (4,) that brings `source` nearer to `target` (H, W), both float32 and nearly aligned.

    Least squares on the gradients (Lucas and Kanade 1981, "An iterative image registration technique").
    """
    height, width = target.shape
    gain, offset = _tone(source, target)
    relit = np.clip(source * gain + offset, 0, 255)
    rows, columns = (slice(margin, side - margin) for side, margin in _sides(target))
    across = cv2.Sobel(relit, cv2.CV_32F, 1, 0, scale=width / 16)[rows, columns]
    down = cv2.Sobel(relit, cv2.CV_32F, 0, 1, scale=height / 16)[rows, columns]
    x, y = _places(width)[columns], _places(height)[rows, None]
    known = np.stack([across, across * x, down, down * y]).reshape(4, -1)  # (4, N)
    error = (target - relit)[rows, columns].reshape(-1)
    products = (known @ known.T).astype(np.float64)
    products += np.eye(4) * (1e-6 * np.trace(products) + 1e-3)
    return np.clip(np.linalg.solve(products, (known @ error).astype(np.float64)), -0.06, 0.06)


def _sides(picture: np.ndarray) -> list[tuple[int, int]]:
    return [(side, int(np.ceil(side * _MARGIN))) for side in picture.shape]


def _places(side: int) -> np.ndarray:
    """Return where the middles of `side` pixels lie, from -1 to 1."""
    return (np.arange(side, dtype=np.float32) * 2 + 1) / side - 1


def _scaled(picture: np.ndarray, size: tuple[int, int], motion: np.ndarray) -> np.ndarray:
    """Return the picture reduced to where `motion` shifts it without stretching, so that it is resampled only once."""
    height, width = picture.shape[:2]
    return resize(
        picture, (min(width, round(size[0] / (1 + motion[1]))), min(height, round(size[1] / (1 + motion[3]))))
    )


def _warp(picture: np.ndarray, motion: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the picture, of any size, moved by `motion`, at `size` (width, height)."""
    matrix = np.zeros((2, 3))
    for axis, (known, wanted) in enumerate(zip(picture.shape[1::-1], size, strict=True)):
        shift, stretch = motion[2 * axis], motion[2 * axis + 1]
        matrix[axis, axis] = (1 + stretch) * known / wanted
        matrix[axis, 2] = ((shift - stretch + (1 + stretch) / wanted) * known - 1) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _blurred(picture: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    return cv2.GaussianBlur(picture.astype(np.float32), (5, 5), sigma)


# ---- brightness and contrast ----------------------------------------------------------------------------------------


def _tone(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return the gain and offset with which `source` fits `target`, both (H, W) or (H, W, 3) float32 and aligned.

    Fitted to what is not clipped, and to everything where nearly all is; whichever explains more.
    """
    height, width = target.shape[:2]
    size = max(1, min(width, _TONE_SIDE)), max(1, min(height, _TONE_SIDE))
    kept = cv2.bitwise_and(cv2.inRange(source, *_limits(source)), cv2.inRange(target, *_limits(target)))
    is_kept = resize(kept, size).reshape(-1) == 255
    x, y = (resize(each, size).reshape(size[0] * size[1], -1) for each in (source, target))
    fits = [_line(x[chosen].ravel(), y[chosen].ravel()) for chosen in (is_kept, np.ones_like(is_kept)) if chosen.any()]
    step = max(1, height * width // _TONE_SIDE**2)
    x, y = (
        source.reshape(height * width, -1)[::step],
        target.reshape(height * width, -1)[::step],
    )  # clipped, not averaged
    return min(fits, key=lambda fit: float(np.abs(np.clip(x * fit[0] + fit[1], 0, 255) - y).mean()))


def _limits(picture: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    return (_DARK + 1,) * channels, (_LIGHT - 1,) * channels


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of y over x by least squares, the second time without what lies far off."""
    slope, offset = 1.0, 0.0
    for _ in range(2):
        mean_x, mean_y, variance = x.mean(), y.mean(), x.var()
        slope = float(((x - mean_x) * (y - mean_y)).mean() / variance) if variance > 1 else 1.0
        offset = float(mean_y - slope * mean_x)
        error = np.abs(y - slope * x - offset)
        near = error <= max(3.0, 3 * float(error.mean()))
        x, y = x[near], y[near]
    return slope, offset


# ---- differences ----------------------------------------------------------------------------------------------------


def _differs(first: np.ndarray, second: np.ndarray, motion: np.ndarray) -> bool:
    """Return whether `second` differs anywhere from `first`, which fits it by `motion`, by more than copies do."""
    height, width = second.shape[:2]
    reduced = _scaled(first, (width, height), motion)
    columns, rows = _shared(width, motion[0], motion[1]), _shared(height, motion[2], motion[3])
    source: np.ndarray = _warp(reduced, motion, (width, height))[rows, columns].astype(np.float32)
    target: np.ndarray = second[rows, columns].astype(np.float32)
    if _is_grey_version(source, target) or _is_grey_version(target, source):
        source, target = _without_colour(source), _without_colour(target)
    gain, offset = _tone(source, target)
    if not GAINS[0] <= gain <= GAINS[1]:
        return True
    relit = np.clip(source * gain + offset, 0, 255)
    relit = np.where(source >= _LIGHT, np.maximum(relit, target), relit)  # clipped: it may have been lighter
    relit = np.where(source <= _DARK, np.minimum(relit, target), relit)
    one, other = _planes(relit), _planes(target)
    own = cv2.cvtColor(first, cv2.COLOR_RGB2GRAY).astype(np.float32) * (gain * _averaging(first, second))
    return _planes_differ(one, other) or _is_noisy(one.light, other.light, own)


def _shared(side: int, shift: float, stretch: float) -> slice:
    """Return which of `side` pixels show what the other picture has, too."""
    seen = np.flatnonzero(np.abs(_places(side) * (1 + stretch) + shift) <= max(0.0, 1 - 1 / side))
    return slice(int(seen[0]), int(seen[-1]) + 1)


def _is_grey_version(picture: np.ndarray, original: np.ndarray) -> bool:
    """Return whether `picture` has no colour anywhere, and `original` has it in more than a detail."""
    size = min(_TONE_SIDE, picture.shape[1]), min(_TONE_SIDE, picture.shape[0])

    def colour(pixels: np.ndarray) -> np.ndarray:
        _, red, blue = cv2.split(cv2.cvtColor(resize(pixels, size), cv2.COLOR_RGB2YCrCb))
        return np.maximum(np.abs(red - 0.5), np.abs(blue - 0.5))  # 0.5 is OpenCV's middle, for any range

    return bool(colour(picture).max() <= _GREY and (colour(original) > _COLOURED).mean() > _MIN_COLOURED)


def _without_colour(picture: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


def _planes(picture: np.ndarray) -> _Planes:
    light, red, blue = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    return _Planes(light, (red, blue), _deviation(light), np.maximum(_deviation(red), _deviation(blue)))


def _deviation(plane: np.ndarray) -> np.ndarray:
    """Return how much edges and texture vary within 9 x 9 pixels, the largest of the values around each pixel.

    So an edge counts for the pixels on either side of it, even where the two pictures are a pixel out of step; a
    gradual change of light does not count.
    """
    detail = plane - cv2.blur(plane, (9, 9))
    variance = np.maximum(cv2.blur(detail * detail, (9, 9)), 0)  # the running sums may end just below 0
    return cv2.dilate(cv2.sqrt(variance), np.ones((5, 5)))


def _planes_differ(one: _Planes, other: _Planes) -> bool:
    texture = np.minimum(one.light_texture, other.light_texture)  # what is in one alone excuses nothing
    difference = one.light - other.light
    if np.any(np.abs(cv2.blur(difference, (9, 9))) > MAX_SHADE[0] + MAX_SHADE[1] * texture):
        return True
    limit = MAX_WIDE_SHADE[0] + MAX_WIDE_SHADE[1] * cv2.blur(texture, (25, 25))
    if np.any(np.abs(cv2.blur(difference, (25, 25))) > limit):
        return True
    first, second = _blurred(one.light, 0.7), _blurred(other.light, 0.7)
    stroke = np.maximum(_outside(first, second), _outside(second, first))
    if np.any(stroke > MAX_STROKE[0] + MAX_STROKE[1] * texture):
        return True
    texture = np.minimum(one.colour_texture, other.colour_texture)
    shifts = (
        np.abs(cv2.blur(first - second, (5, 5))) for first, second in zip(one.colours, other.colours, strict=True)
    )
    return any(bool(np.any(shift > MAX_COLOUR[0] + MAX_COLOUR[1] * texture)) for shift in shifts)


def _outside(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return by how much `picture` is lighter or darker than all of the 3 x 3 pixels of `other` around the place."""
    return np.maximum(picture - cv2.dilate(other, _AROUND), cv2.erode(other, _AROUND) - picture)


def _is_noisy(one: np.ndarray, other: np.ndarray, own: np.ndarray) -> bool:
    """Return whether both pictures have noise of their own: then they are two shots, not copies of one.

    A copy has the noise of its original, or less of it. `own` is what the first had before it was moved, which blurs.
    """
    if min(*one.shape, *own.shape) < 2:
        return False
    first, second, own = _mixed(one), _mixed(other), _mixed(own)
    of_first, of_second, shared = (
        cv2.blur(products, (9, 9)) for products in (first * first, second * second, first * second)
    )
    of_own = cv2.resize(cv2.blur(own * own, (9, 9)), first.shape[::-1], interpolation=cv2.INTER_NEAREST)
    least = np.minimum(of_own, of_second)
    is_own = (least > MIN_NOISE) & (shared < MAX_SHARED_NOISE * cv2.sqrt(np.maximum(of_first * of_second, 0)))
    return bool(is_own.mean() > MAX_NOISY)


def _averaging(first: np.ndarray, second: np.ndarray) -> float:
    """Return the factor by which the noise of `first` falls where it is reduced to the size of `second`."""
    return min(1.0, float(np.sqrt(second.shape[0] * second.shape[1] / (first.shape[0] * first.shape[1]))))


def _mixed(light: np.ndarray) -> np.ndarray:
    """Return the mixed second difference: of white noise it keeps the variance, of smooth shapes nearly nothing."""
    return (light[1:, 1:] - light[:-1, 1:] - light[1:, :-1] + light[:-1, :-1]) / 2
