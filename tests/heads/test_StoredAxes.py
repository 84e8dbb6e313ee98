"""Principal axes from the cache: the same to the last bit, for the same features alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MLPipeline.heads import StoredAxes
from MLPipeline.heads.HeadImages import plain_images
from MLPipeline.heads.PrincipalAxes import PrincipalAxes, principal_axes
from MLPipeline.heads.SolveHead import AUTO, solve
from MLPipeline.heads.StoredAxes import stored_axes
from tests.support.audit_cases import NUM_CLASSES, clusters

FEATURES = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)


def are_equal(first: PrincipalAxes, second: PrincipalAxes) -> bool:
    return all(np.array_equal(value, second.__dict__[name]) for name, value in first.__dict__.items())


def fail(features: np.ndarray) -> PrincipalAxes:
    raise AssertionError(f"the axes of {features.shape} are computed again")


def test_they_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored_axes(FEATURES, tmp_path)
    assert are_equal(first, principal_axes(FEATURES))
    monkeypatch.setattr(StoredAxes, "principal_axes", fail)
    assert are_equal(stored_axes(FEATURES, tmp_path), first)
    assert are_equal(stored_axes(np.asfortranarray(FEATURES), tmp_path), first)
    with pytest.raises(AssertionError, match="computed again"):
        stored_axes(FEATURES, None)


@pytest.mark.parametrize("others", [FEATURES[:-1], FEATURES[::-1], np.where(FEATURES == FEATURES[3, 4], 0, FEATURES)])
def test_other_features_have_others(tmp_path: Path, others: np.ndarray) -> None:
    stored_axes(FEATURES, tmp_path)
    assert are_equal(stored_axes(others, tmp_path), principal_axes(others))


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    first = stored_axes(FEATURES, tmp_path)
    (file,) = (tmp_path / "axes").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert are_equal(stored_axes(FEATURES, tmp_path), first)


def test_the_head_is_the_same(tmp_path: Path) -> None:
    rows, labels = clusters(100)
    images = plain_images(rows.astype(np.float32), labels.astype(np.int64), NUM_CLASSES)
    plain = solve(images, AUTO, 0)
    for _ in range(2):
        kept = solve(images, AUTO, 0, tmp_path)
        assert kept.candidates == plain.candidates
        assert np.array_equal(kept.head.weights, plain.head.weights)
