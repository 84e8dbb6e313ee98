"""The sentences of a report."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from MLPipeline.Config import Config
from MLPipeline.report.Verdict import advice, verdict
from MLPipeline.training.TrainState import EpochRecord

EPOCHS = [EpochRecord(e, 0.5, 0.8, 0.6 - e / 100, 0.75, 0.01, 1.0, e < 3) for e in (1, 2, 3)]


def scores(low: float, high: float) -> dict:
    return {"n": 40, "accuracy": (low + high) / 2, "accuracy_ci95": [low, high]}


@pytest.mark.parametrize(
    ("given", "baseline", "expected"),
    [
        (None, None, "There are no validation or test images, so the accuracy is not known."),
        (scores(0.8, 0.9), 0.3, "Significantly better than the majority-class baseline (30.0 %)."),
        (scores(0.3, 0.45), 0.3, "Not significantly better than the majority-class baseline (30.0 %)."),
        (
            scores(0.5, 0.8),
            0.3,
            "Better than the majority-class baseline (30.0 %), but with only 40 images the accuracy is uncertain: "
            "the 95 % interval is 50 % to 80 %.",
        ),
        (scores(0.5, 0.8), None, "With only 40 images the accuracy is uncertain: the 95 % interval is 50 % to 80 %."),
        (scores(0.8, 0.9), None, "The accuracy is known to within 5.0 %."),
    ],
)
def test_the_verdict_follows_from_interval_and_baseline(given: dict, baseline: float | None, expected: str) -> None:
    assert verdict(given, baseline).replace("\N{NO-BREAK SPACE}", " ") == expected


def test_advice_is_given_only_where_figures_call_for_it() -> None:
    plain = Config(model="cnn", epochs=3, swa=0.0, augment="none")
    assert advice(None, EPOCHS, plain, num_skipped=0) == []
    last_is_best = [*EPOCHS[:2], replace(EPOCHS[2], is_best=True)]
    (more,) = advice(None, last_is_best, plain, 0)
    assert (more.text[:34], more.flags) == ("The last epoch had the lowest vali", "--epochs 6")
    assert advice(None, last_is_best, replace(plain, epochs=9), 0) == []  # stopped early: patience has had its reason
    assert advice(None, last_is_best, replace(plain, swa=0.8), 0) == []  # an average is usually best at its end
    (augment,) = advice(None, [replace(EPOCHS[0], train_accuracy=0.99)], plain, 0)
    assert "99.0\N{NO-BREAK SPACE}% accuracy on training images, 75.0" in augment.text
    assert augment.flags == "--augment crop,jitter"  # no mirroring: it may exchange classes
    (images,) = advice(None, [replace(EPOCHS[0], train_accuracy=0.99)], replace(plain, augment="hflip,crop"), 0)
    assert images.text.endswith("on validation images. Add images.") and not images.flags
    assert advice(None, [replace(EPOCHS[0], train_accuracy=0.99, val_accuracy=math.nan)], plain, 0) == []
    assert advice(None, EPOCHS, plain, 2)[0].text.startswith("2\N{NO-BREAK SPACE}files could not be read")
