"""Heads without hyperparameters to search, beside the trials of `tune`: ridge, logistic regression, the best of both.

Their penalty is chosen out of fold on the training images, so one fit of each suffices; the loss on the validation
images, by which they are compared with the trials, is that of a run with `--head`.
N images, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from MLPipeline.Config import HEADS
from MLPipeline.CreateDataset import Rows
from MLPipeline.heads.GatherFeatures import MAX_BYTES
from MLPipeline.heads.HeadImages import HeadImages, plain_images, rooted
from MLPipeline.heads.SolveHead import Solver
from MLPipeline.images.ScanFolders import TRAIN, VAL, ImageIndex
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.tuning.Tune import Problem

_AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class SolvedHead:
    """A head in closed form, and how well it classifies the validation images."""

    kind: str  # the value of `--head`
    chosen: str  # the head that it is, with its penalty
    val_loss: float
    val_accuracy: float

    def to_text(self) -> str:
        """Return `ridge: 0.3842, 85.9 %: ridge (penalty 0.3)`."""
        return f"{self.kind}: {self.val_loss:.4f}, {100 * self.val_accuracy:.1f} %: {self.chosen}"


def solved_heads(problem: Problem, seed: int) -> list[SolvedHead]:
    """Return the heads, by rising validation loss."""
    train, val = (_images(problem.rows, problem.index, split) for split in (TRAIN, VAL))
    solver, found = Solver(train, seed), []
    labels = torch.from_numpy(val.labels)
    for kind in HEADS[1:]:
        solution = solver.solve(kind)
        predictions = Predictions(torch.from_numpy(solution.head.logits(val.rows)), labels)
        found.append(SolvedHead(kind, solution.chosen.to_text(), predictions.loss, predictions.accuracy))
    return sorted(found, key=lambda each: each.val_loss)


def _images(rows: Rows, index: ImageIndex, split: int) -> HeadImages:
    """Return the images of a split; only some of them, evenly, if their features take too much memory."""
    positions = index.positions(split)
    row_bytes = rows.take(positions[:1], 0).numel() * 4
    positions = positions[:: -(-len(positions) * row_bytes // MAX_BYTES)]
    parts = [rows.take(positions[at : at + _AT_ONCE], 0).float().cpu() for at in range(0, len(positions), _AT_ONCE)]
    groups = positions if index.groups is None else index.groups[positions].astype(np.int64)
    return plain_images(
        rooted(torch.cat(parts).numpy()), index.labels[positions].astype(np.int64), len(index.classes), groups
    )
