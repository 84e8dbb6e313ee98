"""Fixture: one finished run, for tests that check its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.harness import SMALL, Outcome, succeed


class Trained:
    """A finished run with three classes: its images, files and console output."""

    def __init__(self, root: Path, outcome: Outcome) -> None:
        self.data, self.output, self.outcome = root / "Data", root / "output", outcome
        self.path = self.output / "001-cnn"
        self.metrics = json.loads((self.path / "metrics.json").read_text())
        self.history = pd.read_csv(self.path / "history.csv")
        self.predictions = pd.read_csv(self.path / "predictions.csv")
        self.splits = pd.read_csv(self.path / "splits.csv")

    def again(self, *flags: str, paints: bool = False) -> Path:
        """Return the folder of another run with the same settings and these flags."""
        succeed([*SMALL, "--data", self.data, "--output", self.output, *flags], paints)
        return sorted(self.output.glob("[0-9]*-*"))[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Trained:
    root = tmp_path_factory.mktemp("main")
    make_images(root / "Data", {"cat": 20, "dog": 20, "eel": 10})
    (root / "Data" / "cat" / "empty.jpg").touch()
    return Trained(root, succeed([*SMALL, "--data", root / "Data", "--output", root / "output"], paints=True))
