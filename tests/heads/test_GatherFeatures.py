"""The features of a split in memory, weighted and limited."""

from __future__ import annotations

import numpy as np
import pytest

from MLPipeline.heads.GatherFeatures import _weights

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
