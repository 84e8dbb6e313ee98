"""The difference of two backbones on the same images, and what is written about a choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.choosing.Choice import Difference, choose_result, difference_of, read_choice, write_tables
from MLPipeline.choosing.Prober import NUM_FOLDS
from MLPipeline.scoring.Intervals import paired_interval
from tests.support.choice_cases import choice, outcome_of


def test_the_difference_is_paired_and_widened_for_the_folds() -> None:
    best, other = outcome_of(100, range(10)), outcome_of(100, range(5, 20))  # 5 wrong in both, 5 and 10 in one only
    found = difference_of(other, best)
    assert found.value == pytest.approx(-0.05)
    low, high = paired_interval(80, 10, 5, 5)
    scale = (1 + (NUM_FOLDS - 1) / NUM_FOLDS) ** 0.5
    assert (found.low, found.high) == pytest.approx((-0.05 - scale * (-0.05 - low), -0.05 + scale * (high + 0.05)))
    assert not found.is_significant
    assert difference_of(outcome_of(100, range(40)), outcome_of(100, range(10))).is_significant


def test_only_images_on_which_both_were_tested_count() -> None:
    best, other = outcome_of(100, range(10)), outcome_of(50, range(15), total=100)
    assert difference_of(other, best).value == pytest.approx(0.7 - 0.8)


def test_the_interval_contains_the_true_difference() -> None:
    """In 95 % of samples or more, since it is wide for images that are independent."""
    draw, hits = np.random.default_rng(0), 0
    for _ in range(400):
        chance = draw.random(200)
        best, other = (
            outcome_of(200, np.flatnonzero(chance + 0.2 * draw.random(200) > at).tolist()) for at in (0.9, 0.85)
        )
        found = difference_of(other, best)
        hits += found.low <= -0.05 <= found.high
    assert hits >= 380


def test_tables_have_every_figure(tmp_path: Path) -> None:
    made = choice()
    write_tables(made, tmp_path)
    content = json.loads((tmp_path / "choice.json").read_text(encoding="utf-8"))
    assert content == read_choice(tmp_path) == made.to_plain()
    assert content["chosen"] == {"model": "efficientnet_lite0", "image_size": 200, "weights": "imagenet"}
    assert content["reason"] == made.reason and "takes 2.0 times as long" in made.reason
    assert content["left_out"] == [{"name": "resnet50 at 200 pixels", "reason": "<not> here"}]
    assert (content["training_images"], content["minutes"], content["seconds"], content["folds"]) == (1000, 5, 31.4, 5)
    table = pd.read_csv(tmp_path / "choice.csv")
    assert table["model"].tolist() == ["efficientnet_lite2", "efficientnet_lite0", "resnet18"]
    assert table["accuracy"].tolist() == [0.9, 0.898, 0.6] and table["tested"].tolist() == [1000, 1000, 50]
    assert table["difference"].tolist() == pytest.approx([0, -0.002, -0.4])
    assert table["is_finalist"].tolist() == [True, True, False]


def test_a_run_without_a_choice_or_with_a_damaged_one_has_none(tmp_path: Path) -> None:
    assert read_choice(tmp_path) is None
    (tmp_path / "choice.json").write_text("[1, 2")
    assert read_choice(tmp_path) is None
    (tmp_path / "choice.json").write_text("[1, 2]")
    assert read_choice(tmp_path) is None


def test_one_that_was_left_out_after_a_round_is_not_chosen() -> None:
    best, _, early = choice().results
    fast = replace(early, cost=replace(early.cost, seconds_per_image=0.001), difference=Difference(0.0, -0.1, 0.1))
    assert choose_result([best, fast]) is best
    assert choose_result([best, replace(fast, is_finalist=True)]).cost.seconds_per_image == 0.001
