"""The features of a split in memory, weighted and limited."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.heads.GatherFeatures import _weights
from MLPipeline.heads.HeadImages import rooted

LABELS = np.array([0] * 6 + [1] * 2)


def test_without_balance_all_images_count_the_same() -> None:
    assert _weights(LABELS, 2, "none").tolist() == [1] * 8


@pytest.mark.parametrize("balance", ["loss", "sampler"])
def test_balance_gives_rare_classes_more_weight_and_a_mean_of_one(balance: str) -> None:
    weights = _weights(LABELS, 3, balance)
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)
    assert weights[-1] > weights[0] > 0


def test_a_sampler_weights_every_class_equally() -> None:
    weights = _weights(LABELS, 2, "sampler")
    assert weights[:6].sum() == pytest.approx(weights[6:].sum())


def test_roots_take_the_place_of_features_of_which_none_is_negative() -> None:
    rows = np.array([[0.0, 4.0], [9.0, 1.0]], np.float32)
    np.testing.assert_allclose(rooted(rows), [[0.001, 2], [3, 1]], atol=1e-6)
    signed = np.array([[0.0, 4.0], [9.0, -1.0]], np.float32)
    assert rooted(signed) is signed
