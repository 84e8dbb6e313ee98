"""What a page shows: pictures, groups of them, and how far the work is."""

from __future__ import annotations

from dataclasses import dataclass

from MLPipeline.labelling.Outlook import Accuracy


@dataclass(frozen=True)
class Picture:
    """A picture to show; `stamp` changes with the content of its file."""

    number: int
    name: str
    stamp: str
    proposals: tuple[tuple[str, float], ...] = ()  # classes with probabilities, most probable first
    given: str = ""  # the class it has now


@dataclass(frozen=True)
class Group:
    """Pictures that look like one class, the surest first."""

    name: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    line: str  # in one line
    counts: tuple[tuple[str, int], ...]  # labels of each class
    group: tuple[str, int] | None = None  # the class and the size of a group to confirm
    problem: str = ""  # why the latest labels are not on disk
    notes: tuple[str, ...] = ()


def progress_line(num_labelled: int, num_photographs: int, accuracy: Accuracy, num_more: int | None) -> str:
    """Return `120 of 3,068 labelled · accuracy 77 % (59 to 89 %) on 31 random pictures · next point: about 70 labels`.

    `num_more` is the number of further labels that one more percentage point of accuracy takes, None if unknown.
    """
    labelled = f"{num_labelled:,} of {num_photographs:,} labelled"
    if not accuracy.num_tested:
        return f"{labelled} · accuracy not known yet"
    low, high = accuracy.interval
    figures = f"accuracy {100 * accuracy.share:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)"
    pictures = "picture" if accuracy.num_tested == 1 else "pictures"
    more = "unknown" if num_more is None else f"about {num_more:,} more labels"
    return f"{labelled} · {figures} on {accuracy.num_tested} random {pictures} · next point: {more}"


def features_line(num_features: int, num_wanted: int) -> str:
    """Return how far the computation of features is; empty when it is done."""
    return f"features of {num_features:,} of {num_wanted:,}" if num_features < num_wanted else ""
