"""Row 122 of the fault matrix: features that do not belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import MakeImages
from tests.support.harness import SMALL, refuse, succeed, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("similar")
    return train(root / "Data", root / "output", make_images)


def test_122_features_of_another_model_are_refused(trained: Path, tmp_path: Path, make_images: MakeImages) -> None:
    """`similar` with a file of features that another model has computed: exit code 2 naming both models."""
    output = ["--output", trained.parent, "-j", "1"]
    photos = make_images(tmp_path / "photos", {"cat": 2, "dog": 2})
    succeed(["embed", photos, "--to", tmp_path / "f.npz", "--run", "1", *output])
    succeed([*SMALL, "--data", trained.parents[1] / "Data", "--seed", "1", "--output", tmp_path / "other"])
    query = ["similar", photos / "cat" / "000.png", "--in", tmp_path / "f.npz"]
    other = tmp_path / "other" / "001-cnn"
    refuse([*query, "--run", other, *output], 2, "f.npz: holds features of another model", str(other), "001-cnn")
    succeed([*query, *output])  # without --run, the model that the file names


def test_122_features_of_a_model_that_is_gone_are_refused(
    trained: Path, tmp_path: Path, make_images: MakeImages
) -> None:
    """`similar` with features of a run that is gone or was trained again: exit code 2; `--run` names its new place."""
    photos = make_images(tmp_path / "photos", {"cat": 2, "dog": 2})
    moved = Path(shutil.copytree(trained.parent, tmp_path / "moved"))
    succeed(["embed", photos, "--to", tmp_path / "f.npz", "--output", moved, "-j", "1"])
    shutil.rmtree(moved / "001-cnn")
    query = ["similar", photos / "cat" / "000.png", "--in", tmp_path / "f.npz", "--output", trained.parent, "-j", "1"]
    refuse(query, 2, "001-cnn/model.pt, which is gone", "Give its new place with --run")
    succeed([*query, "--run", trained])
