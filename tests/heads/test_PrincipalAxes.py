"""Coordinates that keep distances, whichever of the two matrices is the smaller one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from MLPipeline.heads import PrincipalAxes
from MLPipeline.heads.LinearHead import LinearHead
from MLPipeline.heads.PrincipalAxes import principal_axes

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("number", [30, 200])
def test_the_variances_are_those_of_scikit_learn(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrincipalAxes, "_ROWS_AT_ONCE", 64)
    features = (DRAW.normal(size=(number, 40)) @ DRAW.normal(size=(40, 40)) + 3).astype(np.float32)
    axes = principal_axes(features)
    oracle = PCA().fit(features)
    kept = min(number - 1, 40)
    ratios = axes.variances / axes.variances.sum()
    assert len(axes.variances) == kept
    assert np.allclose(ratios, oracle.explained_variance_ratio_[:kept], atol=1e-4)
    assert axes.variances.sum() == pytest.approx(40, rel=1e-3)  # a mean variance of 1 per feature
    coordinates = axes.project(features)
    assert np.allclose(coordinates.var(0), axes.variances, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("number", [30, 200])
def test_a_head_for_coordinates_is_one_for_features(number: int) -> None:
    features = DRAW.normal(size=(number, 40)).astype(np.float32)
    axes = principal_axes(features)
    size = len(axes.variances)
    head = LinearHead(DRAW.normal(size=(size, 3)).astype(np.float32), DRAW.normal(size=3).astype(np.float32))
    in_features = axes.in_features(head).logits(features)
    assert np.allclose(in_features, head.logits(axes.project(features)), atol=1e-3)


def test_only_the_largest_variances_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrincipalAxes, "MAX_DIRECTIONS", 2)
    features = (DRAW.normal(size=(50, 4)) * [1, 5, 0.1, 3]).astype(np.float32)
    directions = principal_axes(features).directions
    assert np.abs(directions).argmax(0).tolist() == [1, 3]


def test_equal_images_have_no_direction() -> None:
    axes = principal_axes(np.ones((5, 8), np.float32))
    assert np.isfinite(axes.directions).all()
    assert axes.project(np.ones((1, 8), np.float32)).shape == (1, len(axes.variances))
