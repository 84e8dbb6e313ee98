"""What is rare in a data set is an outlier, with a hint what to do; what much of it shares is a property of the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

PROPERTY_SHARE, MIN_IMAGES = 0.1, 3  # of the images, and at least this many, make a property

PROPERTY_HINT = (
    "This is a property of the set, not a fault: nothing to delete. Check that the images seen in use have it, too, "
    "and that it does not depend on the class."
)


def is_property(number: int, total: int) -> bool:
    """Return whether something that holds for `number` of `total` images is too common to be an outlier."""
    return number >= max(MIN_IMAGES, PROPERTY_SHARE * total)


def proportion(number: int, total: int) -> str:
    """Return `50 of 200 images, 1 in 4`; in per cent where it is more than half."""
    share = f"1 in {round(total / number)}" if 2 * number <= total else f"{100 * number / total:.0f} %"
    return f"{number:,} of {total:,} images, {share}"


def tally(texts: Sequence[str], total: int) -> list[str]:
    """Return one line for each different text, the most frequent first, with how many images it holds for."""
    return [f"{text}: {proportion(number, total)}" for text, number in Counter(texts).most_common()]
