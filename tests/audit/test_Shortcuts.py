"""Shortcuts that were planted are named with the class they give away; images without any raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.audit.Shortcuts import Shortcuts, find_shortcuts, metadata_signals
from MLPipeline.images.Fingerprint import KINDS
from tests.support.audit_cases import alone, records

LABELS = np.arange(600) % 10


def found_in(made: np.ndarray, labels: np.ndarray = LABELS) -> Shortcuts:
    return find_shortcuts(metadata_signals(made), labels, alone(labels))


@pytest.mark.parametrize("seed", range(5))
def test_images_without_a_shortcut_raise_no_alarm(seed: int) -> None:
    found = found_in(records(600, seed))
    assert not found.is_alarming
    assert found.accuracy < found.baseline + 0.06 and found.baseline == pytest.approx(0.1)


def test_one_class_of_ten_saved_as_png_is_named() -> None:
    made = records(600)
    made["kind"][LABELS == 7] = KINDS.index("PNG")
    found = found_in(made)
    assert found.is_alarming
    (giveaway,) = found.giveaways
    assert (giveaway.signal, giveaway.label) == ("file format", 7)
    assert giveaway.found == 1 and giveaway.false == 0
    assert giveaway.typical == "PNG colour, 100 %" and giveaway.typical_of_others == "JPEG colour, 100 %"
    assert next(iter(found.per_signal)) == "file format"


def test_a_coloured_border_is_named() -> None:
    made = records(600)
    made["border"][LABELS == 2], made["border_contrast"][LABELS == 2] = (250, 10, 10), 0
    (giveaway,) = found_in(made).giveaways
    assert (giveaway.signal, giveaway.label) == ("border", 2)
    assert giveaway.typical == "red 250, green 10, blue 10, spread 0"


def test_a_size_that_most_of_a_class_has_is_named() -> None:
    made = records(600)
    chosen = np.flatnonzero(LABELS == 4)[:54]  # 90 % of them
    made["width"][chosen] = 640
    (giveaway,) = found_in(made).giveaways
    assert (giveaway.signal, giveaway.label, giveaway.found) == ("width", 4, 0.9)


def test_two_classes_give_each_other_away() -> None:
    made, labels = records(200), np.arange(200) % 2
    made["orientation"][labels == 1] = 6
    found = found_in(made, labels)
    assert found.accuracy > 0.95 and {each.label for each in found.giveaways} == {0, 1}


def test_a_handful_of_images_is_no_proof() -> None:
    made, labels = records(300), np.repeat([0, 1], [297, 3])
    made["kind"][labels == 1] = KINDS.index("PNG")
    assert not found_in(made, labels).giveaways


def test_copies_do_not_vouch_for_each_other() -> None:
    """Sizes that say nothing of a class but are shared by copies: only a copy tells."""
    labels = np.repeat(np.random.default_rng(0).integers(0, 2, 12), 20)
    made, groups = records(240), np.repeat(np.arange(12), 20)
    made["width"] = 100 + groups
    found = find_shortcuts({"width": made["width"][:, None]}, labels, groups)
    assert not found.is_alarming
    assert find_shortcuts({"width": made["width"][:, None]}, labels, alone(labels)).is_alarming
