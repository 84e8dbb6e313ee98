"""Which part of a picture goes to which part of the square that a model sees.

- stretch: the whole picture fills the square; nothing is lost, proportions change.
- crop: the centre fills the square; the shorter side fits, the ends of the longer side are cut off.
- pad: the whole picture in its own proportions; the rest of the square gets the mean colour of the picture.
"""

from __future__ import annotations

from MLPipeline.Config import FITS

STRETCH = FITS[0]

Part = tuple[slice, slice]  # rows, columns


def matching_parts(shape: tuple[int, ...], size: tuple[int, int], fit: str) -> tuple[Part, Part]:
    """Return the part of a picture of `shape` (H, W, ...) that is used and the part of `size` (width, height) it fills.

    Both have nearly the same proportions, except with `stretch`.
    """
    height, width = shape[:2]
    whole = (slice(0, height), slice(0, width)), (slice(0, size[1]), slice(0, size[0]))
    if fit == "crop":
        return _centre((width, height), size), whole[1]
    if fit == "pad":
        return whole[0], _centre(size, (width, height))
    return whole


def _centre(size: tuple[int, int], proportions: tuple[int, int]) -> Part:
    """Return the largest centred part, with these `proportions` (width, height), of what is `size` (width, height)."""
    scale = min(size[0] / proportions[0], size[1] / proportions[1])
    width, height = (max(1, round(side * scale)) for side in proportions)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return slice(top, top + height), slice(left, left + width)
