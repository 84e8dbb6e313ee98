"""The heads that `tune` fits beside its trials: each that of `--head`, the best first; test images are not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from MLPipeline.heads.HeadImages import plain_images
from MLPipeline.heads.SolveHead import solve
from MLPipeline.images.ScanFolders import TRAIN, VAL
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.tuning import SolvedHeads
from MLPipeline.tuning.SolvedHeads import solved_heads
from MLPipeline.tuning.Tune import Problem
from tests.support.tune_cases import problem


def wanted(of: Problem, kind: str) -> tuple[float, float]:
    """The validation loss and accuracy of the head that `--head` fits."""
    train, val = (of.index.positions(split) for split in (TRAIN, VAL))
    labels = of.index.labels.astype(np.int64)
    head = solve(plain_images(of.rows.take(train, 0).numpy(), labels[train], 3, train), kind, 7).head
    found = Predictions(torch.from_numpy(head.logits(of.rows.take(val, 0).numpy())), torch.from_numpy(labels[val]))
    return found.losses.mean().item(), (found.predicted == found.labels).double().mean().item()


def test_each_head_is_that_of_its_flag_and_the_best_comes_first() -> None:
    of = problem(240, noise=2.0)
    found = solved_heads(of, seed=7)
    assert sorted(each.kind for each in found) == ["auto", "logistic", "ridge"]
    assert [each.val_loss for each in found] == sorted(each.val_loss for each in found)
    for each in found:
        assert (each.val_loss, each.val_accuracy) == pytest.approx(wanted(of, each.kind), abs=1e-6)
    ridge = next(each for each in found if each.kind == "ridge")
    assert ridge.to_text().startswith(f"ridge: {ridge.val_loss:.4f}, {100 * ridge.val_accuracy:.1f} %: ridge (penalty ")


def test_features_that_take_too_much_memory_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    of = problem(240, noise=2.0)
    sizes = []
    monkeypatch.setattr(SolvedHeads, "MAX_BYTES", of.rows.row_bytes * 40)
    monkeypatch.setattr(SolvedHeads, "Solver", lambda images, seed: sizes.append(len(images)) or _Halt())
    with pytest.raises(StopIteration):
        solved_heads(of, seed=0)
    assert sizes == [40]


class _Halt:
    def solve(self, kind: str) -> None:
        raise StopIteration


def test_a_class_with_a_single_image_is_survived(tmp_path: Path) -> None:
    of = problem(48)
    labels = np.where(of.index.labels == 2, 1, of.index.labels)
    labels[0] = 2
    of.index.labels[:] = labels
    assert len(solved_heads(of, seed=0)) == 3
