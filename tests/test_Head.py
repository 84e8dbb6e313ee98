"""Head: dropout and one more layer before the last, the same whenever it is made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from MLPipeline.Errors import UsageError
from MLPipeline.Head import (
    SquareRoot,
    have_roots,
    is_single_layer,
    make_head,
    own_dropout,
    reads_roots,
    set_layer,
    with_roots,
)
from MLPipeline.Models import build_model


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(6), nn.Dropout(0.2), nn.Linear(6, 3))


def kinds(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head.children()]


def test_nothing_stated_changes_nothing() -> None:
    head = with_dropout()
    assert make_head(head, None, None) is head


def test_dropout_keeps_the_weights_of_the_last_layer() -> None:
    head = with_dropout()
    changed = make_head(head, None, 0.5)
    assert kinds(changed) == ["LayerNorm", "Dropout", "Linear"]
    assert changed[1].p == 0.5 and changed[2] is head[2]
    assert kinds(make_head(head, None, 0.0)) == ["LayerNorm", "Linear"]


def test_a_hidden_layer_stands_before_the_dropout() -> None:
    changed = make_head(with_dropout(), 16, None)
    assert kinds(changed) == ["LayerNorm", "Linear", "ReLU", "Dropout", "Linear"]
    assert changed[3].p == 0.2  # the head's own
    assert changed(torch.ones(5, 6)).shape == (5, 3)


def test_a_bare_linear_head_gets_them_too() -> None:
    assert kinds(make_head(nn.Linear(6, 3), 4, 0.1)) == ["Linear", "ReLU", "Dropout", "Linear"]
    assert own_dropout(nn.Linear(6, 3)) == 0.0 and own_dropout(with_dropout()) == 0.2


def test_weights_follow_from_the_seed_and_leave_other_draws_alone() -> None:
    first, again, other = (make_head(nn.Linear(6, 3), 4, None, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    head = with_dropout()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make_head(head, 4, 0.5, 7)
    assert torch.equal(torch.rand(3), expected)


def test_a_head_that_ends_otherwise_is_refused() -> None:
    with pytest.raises(UsageError, match="--hidden, --dropout"):
        make_head(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), None, 0.5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "cnn"])
def test_heads_of_our_models_can_be_changed(name: str) -> None:
    model = build_model(name, 3, 32)
    model.head = make_head(model.head, 8, 0.5)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def test_a_head_on_roots_is_still_a_single_layer() -> None:
    head = with_roots(nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 2)))
    assert kinds(head) == ["SquareRoot", "Dropout", "Linear"] and own_dropout(head) == 0.2
    assert is_single_layer(head) and reads_roots(head) and not reads_roots(head[2])
    weights, bias = torch.tensor([[1.0, 0], [0, 1], [1, -1]]), torch.tensor([0.5, 0.0])
    set_layer(head, weights, bias)
    found = head.eval()(torch.tensor([[4.0, 9.0, 16.0]]))
    torch.testing.assert_close(found, torch.tensor([[2 + 4 + 0.5, 3.0 - 4]]))
    assert kinds(with_roots(nn.Linear(3, 2))) == ["SquareRoot", "Linear"]


def test_roots_have_finite_gradients_and_are_for_features_that_are_never_negative() -> None:
    features = torch.tensor([0.0, -1e-9, 0.25], requires_grad=True)
    SquareRoot()(features).sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert have_roots(torch.tensor([0.0, 2.0])) and not have_roots(torch.tensor([0.0, -0.1]))
    assert not have_roots(torch.tensor([0.0, torch.nan]))
