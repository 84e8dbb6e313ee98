"""Tune: the search finds what is known to be right, never sees a test image, and goes on where it was stopped."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.CreateDataset import Batches
from MLPipeline.Head import make_head
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import TrainState
from MLPipeline.tuning.Study import NUM_RANDOM
from MLPipeline.tuning.Tune import Trial, in_memory
from tests.support.train_cases import CPU, NUM_FEATURES, linear, settings
from tests.support.tune_cases import problem, search


def without_seconds(trials: list[Trial]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def test_the_first_trial_has_the_settings_of_the_model(tmp_path: Path) -> None:
    trial = search(tmp_path, 1, lr=0.0123, batch_size=9, weight_decay=0.02).trials[0]
    assert (trial.number, trial.is_pruned) == (1, False)
    assert trial.settings == {
        "lr": 0.0123,
        "optimizer": "adam",
        "batch_size": 9,
        "weight_decay": 0.02,
        "label_smoothing": 0.0,
        "dropout": 0.0,
        "hidden": 0,
    }


def test_a_far_too_low_rate_is_left_behind(tmp_path: Path) -> None:
    """Points this close to their corners are learned in three epochs, by rates above a thousandth only."""
    found = search(tmp_path, 30, problem(noise=0.3), lr=1e-5)
    own, best = found.trials[0], found.best
    assert best is not None and best.val_loss < own.val_loss / 2
    assert best.settings["lr"] > 1e-3
    assert found.best == min((t for t in found.trials if not t.is_pruned), key=lambda trial: trial.val_loss)


def test_hopeless_trials_are_given_up(tmp_path: Path) -> None:
    found = search(tmp_path, 30, epochs=4)
    pruned = [trial for trial in found.trials if trial.is_pruned]
    assert pruned and all(trial.epoch < 4 for trial in pruned)
    assert found.best is not None and min(trial.val_loss for trial in pruned) > found.best.val_loss


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    first, again = (search(tmp_path / name, NUM_RANDOM + 4) for name in "ab")
    assert without_seconds(first.trials) == without_seconds(again.trials)
    other = search(tmp_path / "c", 3, seed=1)
    assert [t.settings["lr"] for t in other.trials[1:]] != [t.settings["lr"] for t in first.trials[1:3]]


def test_a_stopped_search_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    num_trials, stopped_after = NUM_RANDOM + 6, NUM_RANDOM - 4
    whole = search(tmp_path / "whole", num_trials)

    def stop(state: TrainState) -> None:
        raise KeyboardInterrupt

    first = search(tmp_path / "parts", stopped_after)
    with pytest.raises(KeyboardInterrupt):
        first.next_trial(stop)
    second = search(tmp_path / "parts", num_trials - stopped_after)
    assert second.num_known == stopped_after
    assert without_seconds(second.trials) == without_seconds(whole.trials)


def test_a_trial_is_what_training_with_its_settings_gives(tmp_path: Path) -> None:
    of, found = problem(), search(tmp_path, 12)
    for trial in [trial for trial in found.trials if not trial.is_pruned]:
        stated = {name: value for name, value in trial.settings.items() if name not in ("hidden", "dropout")}
        config = settings(epochs=3, **stated)
        head = make_head(linear(), trial.settings["hidden"] or None, trial.settings["dropout"], config.seed)
        train = Batches(of.rows, of.index, TRAIN, config.batch_size, config.seed)
        val = Batches(of.rows, of.index, VAL, config.batch_size)
        records = list(fit(nn.Sequential(nn.Sequential(), head), train, val, config, CPU))
        assert min(record.val_loss for record in records) == trial.val_loss


def test_rows_of_test_images_are_not_read(tmp_path: Path) -> None:
    """The rows of these cases raise if one of them is asked for; so would a search that scored them."""
    of = problem()
    with pytest.raises(AssertionError, match="a test image is read"):
        of.rows.take(of.index.positions(TEST), 0)
    search(tmp_path, 3, of)
    held = in_memory(of.rows, of.index, CPU)
    both = of.index.positions(TRAIN)[:3]
    assert torch.equal(held.take(both, 0), of.rows.take(both, 0))
    assert held.features.shape == (36, NUM_FEATURES)  # of 48 images


class Exploding(nn.Module):
    """Gives what is no number."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows * math.nan


def test_a_trial_that_diverges_is_no_end(tmp_path: Path) -> None:
    of = replace(problem(), head=nn.Sequential(Exploding(), linear()))
    found = search(tmp_path, 2, of)
    assert [(trial.is_pruned, trial.val_loss) for trial in found.trials] == [(True, math.inf)] * 2
    assert found.best is None
    assert search(tmp_path, 0, of).num_known == 2


def test_a_damaged_journal_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(tmp_path, 2)
    journal = tmp_path / "journal.log"
    journal.write_bytes(journal.read_bytes()[:200] + b"\n" + journal.read_bytes()[200:])
    with caplog.at_level(logging.WARNING):
        assert search(tmp_path, 1).num_known == 0
    assert "is damaged" in caplog.text and (tmp_path / "journal.log.damaged").exists()


def test_a_journal_cut_short_loses_its_last_line_only(tmp_path: Path) -> None:
    search(tmp_path, 3)
    journal = tmp_path / "journal.log"
    journal.write_bytes(journal.read_bytes()[:-5])  # killed while writing
    assert search(tmp_path, 2).num_known == 2
    assert search(tmp_path).num_known == 4


def test_importances_are_shares(tmp_path: Path) -> None:
    shares = search(tmp_path, 30).importances()
    assert set(shares) == {"lr", "optimizer", "batch_size", "weight_decay", "label_smoothing", "dropout", "hidden"}
    assert sum(shares.values()) == pytest.approx(1)
