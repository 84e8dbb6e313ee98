"""Shortcuts: how well the classes can be predicted from size, format, mean colour or border alone.

A classifier learns such a shortcut first: where all cats are PNG files or have a white frame, it need not learn what a
cat looks like, and it fails on the first cat that differs. A small model per signal (naive Bayes on bins, evaluated
out of fold) measures how much the signal reveals about the class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from MLPipeline.heads.Folds import assign_folds
from MLPipeline.images.Fingerprint import KINDS
from MLPipeline.scoring.Intervals import wilson_interval

NUM_BINS, NUM_FOLDS = 16, 5
# A signal is reported from this strength on: 0 is chance, 1 is certainty, at the lower end of the interval.
# Differences in shape and colour between the subjects reach 0.25 on photographs of clothing and 0.33 on CIFAR-10.
ALARM = 0.6
FORMAT, PROPORTIONS = "file format", "proportions"
_MAX_CELLS = 20_000_000  # images x classes that are evaluated: 160 MB
_COLOURS = ("red", "green", "blue", "spread")
_CHANNELS = {1: "grey", 3: "colour", 4: "with alpha or CMYK"}


@dataclass(frozen=True)
class Giveaway:
    """A class, and how well one signal predicts it."""

    signal: str
    label: int
    found: float  # recall: share of the images of the class that the signal assigns to it
    false: float  # false positive rate: share of all other images that the signal assigns to this class
    strength: float  # `found - false` at the lower end of its 95 % interval: 0 chance, 1 certainty (Youden's J)
    typical: str = ""  # typical values of the signal for this class, and for all others
    typical_of_others: str = ""


@dataclass(frozen=True)
class Shortcuts:
    """How well the classes can be predicted without the content of the images; shares from 0 to 1."""

    accuracy: float  # with all signals together
    interval: tuple[float, float]  # 95 %
    baseline: float  # share of the largest class
    per_signal: dict[str, float]  # accuracy with one signal alone, the highest first
    strongest: tuple[Giveaway, ...]  # the strongest signal of each class, in descending order of strength

    @property
    def giveaways(self) -> tuple[Giveaway, ...]:
        """The classes with a signal of at least the strength ALARM."""
        return tuple(each for each in self.strongest if each.strength >= ALARM)

    @property
    def is_alarming(self) -> bool:
        """Whether there are giveaways, or all signals together reach half-way from the baseline to certainty."""
        return bool(self.giveaways) or self.interval[0] - self.baseline > (1 - self.baseline) / 2


def metadata_signals(records: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array (N, k) per signal, from the FINGERPRINT records (N,) of readable images."""
    width, height, size = (records[name].astype(float) for name in ("width", "height", "size"))
    return {
        FORMAT: np.column_stack([records["kind"], records["channels"]]),
        "bits per channel": records["bits"][:, None],
        "width": width[:, None],
        "height": height[:, None],
        PROPORTIONS: (width / height)[:, None],
        "file size": size[:, None],
        "bytes per pixel": (size / (width * height))[:, None],
        "EXIF orientation": records["orientation"][:, None],
        "mean colour": np.column_stack([records["colour"], records["saturation"]]),
        "border": np.column_stack([records["border"], records["border_contrast"]]),
    }


def find_shortcuts(
    signals: Mapping[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, seed: int = 0
) -> Shortcuts:
    """Return how well `signals`, arrays (N, k) by name, predict the `labels` (N,).

    `groups` (N,) holds the same number for copies of one image. `seed` draws the folds and, where there are too many
    images, the subset to evaluate.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(codes))[: _MAX_CELLS // len(classes)]
    codes, folds = codes[chosen], assign_folds(codes[chosen], groups[chosen], NUM_FOLDS, seed)
    supports = np.bincount(codes, minlength=len(classes))
    prior = np.log(np.maximum(supports, 0.5) / len(codes))
    together, alone, giveaways = np.tile(prior, (len(codes), 1)), {}, []
    for name, values in signals.items():
        of_class, of_others = _evidence(values[chosen], codes, folds, len(classes))
        together += of_class
        alone[name] = float(((of_class + prior).argmax(axis=1) == codes).mean())
        is_assigned = of_class > of_others  # (N, C): each class against all others
        giveaways.append([_giveaway(name, k, codes == k, is_assigned[:, k]) for k in range(len(classes))])
    hits = int((together.argmax(axis=1) == codes).sum())
    strongest = [max(of_class, key=lambda each: each.strength) for of_class in zip(*giveaways, strict=True)]
    return Shortcuts(
        accuracy=hits / len(codes),
        interval=wilson_interval(hits, len(codes)),
        baseline=float(supports.max() / len(codes)),
        per_signal=dict(sorted(alone.items(), key=lambda item: -item[1])),
        strongest=tuple(
            replace(
                each,
                label=int(classes[each.label]),
                typical=_typical(each.signal, signals[each.signal][chosen][codes == each.label]),
                typical_of_others=_typical(each.signal, signals[each.signal][chosen][codes != each.label]),
            )
            for each in sorted(strongest, key=lambda each: -each.strength)
        ),
    )


def _giveaway(signal: str, label: int, is_member: np.ndarray, is_assigned: np.ndarray) -> Giveaway:
    found, false = int(is_assigned[is_member].sum()), int(is_assigned[~is_member].sum())
    members = int(is_member.sum())
    others = len(is_member) - members
    strength = wilson_interval(found, members)[0] - wilson_interval(false, others)[1]
    return Giveaway(signal, label, found / max(members, 1), false / max(others, 1), strength)


def _typical(signal: str, values: np.ndarray) -> str:
    """Return the most common format in `values` (N, k) with its share, or the medians of any other signal."""
    if not len(values):
        return ""
    if signal == FORMAT:
        (kind, channels), number = Counter(map(tuple, values.tolist())).most_common(1)[0]
        return f"{KINDS[kind]} {_CHANNELS.get(channels, '')}, {100 * number / len(values):.0f} %"
    medians = [f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in np.median(values, axis=0).tolist()]
    return medians[0] if len(medians) == 1 else ", ".join(map(" ".join, zip(_COLOURS, medians, strict=True)))


def _evidence(
    values: np.ndarray, codes: np.ndarray, folds: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-fold log likelihoods (N, C) of `values` (N, k) under each class, and under all others."""
    of_class, of_others = np.zeros((2, len(codes), num_classes))
    for column in values.T:
        bins = _bins(column)
        num_bins = int(bins.max()) + 1
        counts = np.zeros((NUM_FOLDS, num_classes, num_bins))
        np.add.at(counts, (folds, codes, bins), 1)
        training = counts.sum(axis=0) - counts  # (folds, C, bins): the counts in the other folds
        others = training.sum(axis=1, keepdims=True) - training
        for total, number in ((of_class, training), (of_others, others)):
            likelihood = np.log((number + 0.5) / (number.sum(axis=2, keepdims=True) + 0.5 * num_bins))
            total += likelihood[folds, :, bins]
    return of_class, of_others


def _bins(column: np.ndarray) -> np.ndarray:
    """Return the bin (N,) of each value: one per distinct value, or NUM_BINS with about equal numbers of images."""
    distinct, codes = np.unique(column, return_inverse=True)
    if len(distinct) <= NUM_BINS:
        return codes
    return np.searchsorted(np.quantile(column, np.arange(1, NUM_BINS) / NUM_BINS), column, side="right")
