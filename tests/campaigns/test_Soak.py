"""The short form of the campaign `Soak`: a few runs into one folder, two at a time, and a small prediction."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.campaigns.Soak import Sample, check_growth, check_output, soak_prediction, soak_runs

NUM_RUNS, NUM_LINKS = 6, 300


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("soak").resolve()
    assert soak_runs(root, NUM_RUNS) == []
    return root


def test_runs_at_once_share_a_folder(root: Path, tmp_path: Path) -> None:
    """And whatever is lost or left behind is found."""
    shutil.copytree(root / "output", tmp_path / "output")
    for change, fault in {
        lambda: shutil.rmtree(tmp_path / "output" / "003-cnn"): "not numbered",
        (tmp_path / "output" / "004-cnn" / "metrics.json").unlink: "004-cnn has no metrics.json",
        (tmp_path / "output" / ".runs.csv.0a1b2c3d").touch: "left behind",
    }.items():
        change()
        assert any(fault in each for each in check_output(tmp_path / "output", NUM_RUNS))


def test_a_prediction_over_links_is_complete(root: Path) -> None:
    wrong, samples = soak_prediction(root, NUM_LINKS)
    assert wrong == [] and samples and max(each.num_handles for each in samples) > 3


def test_what_grows_is_found() -> None:
    still = [Sample(500.0, 9, 20)] * 40
    assert check_growth(still) == check_growth(still[:3]) == []
    leaking = [Sample(500.0 + 5 * k, 9, 20 + k) for k in range(40)]
    assert [each.split()[0] for each in check_growth(leaking)] == ["memory_mb", "num_handles"]
