"""The same minimum as scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from MLPipeline.heads import Logistic
from MLPipeline.heads.LinearHead import LinearHead
from MLPipeline.heads.Logistic import fit_logistic
from tests.support.audit_cases import NUM_CLASSES, clusters

ROWS, LABELS = clusters(200)
ROWS = ROWS.astype(np.float32)
TARGETS = np.eye(NUM_CLASSES, dtype=np.float32)[LABELS]
ONES = np.ones(len(LABELS), np.float32)
UNEVEN = np.where(LABELS == 0, 2.0, 0.5).astype(np.float32)
UNEVEN /= UNEVEN.mean()


def cost(head: LinearHead, penalty: float, weights: np.ndarray = ONES) -> float:
    logits = head.logits(ROWS).astype(np.float64)
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - (logits * TARGETS).sum(1)
    return float((losses * weights).mean() + penalty / 2 * (head.weights.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("penalty", [1.0, 0.01])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_minimum_is_that_of_scikit_learn(penalty: float, is_weighted: bool) -> None:
    weights = UNEVEN if is_weighted else ONES
    (ours,) = fit_logistic(ROWS, TARGETS, weights[None], ROWS.var(0), penalty)
    oracle = LogisticRegression(C=1 / (penalty * len(LABELS)), tol=1e-8, max_iter=5000)
    oracle.fit(ROWS.astype(np.float64), LABELS, sample_weight=weights)
    theirs = LinearHead(oracle.coef_.T, oracle.intercept_)
    lowest = cost(theirs, penalty, weights)
    assert lowest - 1e-6 <= cost(ours, penalty, weights) < lowest + 1e-3
    assert np.abs(ours.weights - theirs.weights).max() < 0.05 * np.abs(theirs.weights).max()


def test_another_start_leads_to_the_same_head_and_is_not_changed() -> None:
    (start,) = fit_logistic(ROWS, TARGETS, ONES[None], ROWS.var(0), 1.0)
    before = start.weights.copy(), start.bias.copy()
    cold, warm = (fit_logistic(ROWS, TARGETS, ONES[None], ROWS.var(0), 0.1, each)[0] for each in (None, [start]))
    assert cost(cold, 0.1) == pytest.approx(cost(warm, 0.1), abs=1e-3)
    assert np.array_equal(start.weights, before[0]) and np.array_equal(start.bias, before[1])


def test_equal_arguments_give_equal_heads() -> None:
    first, second = (fit_logistic(ROWS, TARGETS, ONES[None], ROWS.var(0), 0.03)[0] for _ in range(2))
    assert np.array_equal(first.weights, second.weights)


@pytest.mark.parametrize("is_soft", [False, True])
def test_the_head_is_that_of_autograds_gradient(is_soft: bool) -> None:
    targets = 0.9 * TARGETS + 0.1 / NUM_CLASSES if is_soft else TARGETS  # sums of 1 only to within rounding
    weights = UNEVEN
    inputs, wanted, share = (torch.from_numpy(np.asarray(each, np.float32)) for each in (ROWS, targets, weights))
    unit = torch.from_numpy(1 / np.sqrt(0.1 * ROWS.var(0) + 0.03, dtype=np.float32))[:, None]
    parameters = [torch.zeros(ROWS.shape[1], NUM_CLASSES), torch.zeros(NUM_CLASSES)]
    scaled, bias = (each.requires_grad_() for each in parameters)
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, tolerance_grad=1e-3, line_search_fn="strong_wolfe")

    def cost_of_torch() -> torch.Tensor:
        optimizer.zero_grad()
        slopes = unit * scaled
        losses = cross_entropy(torch.addmm(bias, inputs, slopes), wanted, reduction="none")
        total = losses @ share / len(share) + 0.03 / 2 * slopes.square().sum()
        total.backward()
        return total

    optimizer.step(cost_of_torch)
    (ours,) = fit_logistic(ROWS, wanted.numpy(), weights[None], ROWS.var(0), 0.03)
    assert np.allclose(ours.weights, (unit * scaled).detach().numpy(), atol=1e-5)
    assert np.allclose(ours.bias, bias.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("logits_at_once", [1, 2 * TARGETS.size, 10**7])
def test_heads_fitted_together_are_those_fitted_alone(monkeypatch: pytest.MonkeyPatch, logits_at_once: int) -> None:
    monkeypatch.setattr(Logistic, "_LOGITS_AT_ONCE", logits_at_once)
    parts = np.stack([np.arange(len(LABELS)) % 5 != fold for fold in range(5)]) * UNEVEN
    starts = fit_logistic(ROWS, TARGETS, parts, ROWS.var(0), 1.0)
    together = fit_logistic(ROWS, TARGETS, parts, ROWS.var(0), 0.03, starts)
    for head, start, weights in zip(together, starts, parts, strict=True):
        known = weights > 0
        arguments = ROWS[known], TARGETS[known], weights[None, known], ROWS.var(0), 0.03
        (alone,) = fit_logistic(*arguments, [start])
        costs = [cost(each, 0.03, weights * len(weights) / weights.sum()) for each in (head, alone)]
        assert costs[0] == pytest.approx(costs[1], abs=1e-4)
        assert np.abs(head.weights - alone.weights).max() < 0.05 * np.abs(alone.weights).max()
