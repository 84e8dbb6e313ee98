"""A batch that does not fit into memory is computed in parts, and changes the weights in the same way."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Errors import ResourceError
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import TrainState
from tests.support.train_cases import (
    CPU,
    NUM_CLASSES,
    NUM_FEATURES,
    batches,
    images,
    linear,
    network,
    no_points,
    points,
    settings,
)

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
}


class Cramped(nn.Module):
    """A linear layer that has room for `room` rows at once, while it is trained."""

    def __init__(self, room: int, error: str = "cpu") -> None:
        super().__init__()
        self.layer, self.room, self.error = linear(), room, error
        self.sizes: list[int] = []

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            assert len(rows), "an empty part has no mean loss"
            self.sizes.append(len(rows))
            if len(rows) > self.room:
                raise ERRORS[self.error]
        return self.layer(rows)


def trained(model: nn.Module, num_rows: int, batch_size: int, **stated: Any) -> tuple[TrainState, list[float]]:
    config = settings(batch_size=batch_size, **{"epochs": 2, "optimizer": "sgd"} | stated)
    state = TrainState(model, config, CPU)
    train = batches(*points(num_rows), batch_size, seed=0)
    losses = [record.train_loss for record in fit(model, train, no_points(), config, CPU, state=state)]
    return state, losses


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize(("num_rows", "batch_size"), [(16, 8), (19, 8), (21, 6), (15, 7), (5, 5)])
def test_in_parts_it_comes_to_the_same(room: int, num_rows: int, batch_size: int, error: str) -> None:
    """Also where the number of images is no power of two, and the last batch is smaller than the others."""
    cramped, roomy = Cramped(room, error), Cramped(99)
    state, losses = trained(cramped, num_rows, batch_size)
    whole, expected = trained(roomy, num_rows, batch_size)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert state.sums == whole.sums and state.history[1].train_accuracy == whole.history[1].train_accuracy
    torch.testing.assert_close(cramped.layer.weight, roomy.layer.weight, rtol=1e-5, atol=1e-6)
    assert whole.num_parts == 1 and (1 < state.num_parts < 2 * batch_size) == (room < batch_size)


@pytest.mark.parametrize("stated", [{"label_smoothing": 0.2}, {"balance": "loss"}, {"clip_norm": 0.1}], ids=str)
def test_in_parts_every_loss_comes_to_the_same(stated: dict[str, Any]) -> None:
    cramped, roomy = Cramped(3), Cramped(99)
    trained(cramped, 19, 8, **stated), trained(roomy, 19, 8, **stated)
    torch.testing.assert_close(cramped.layer.weight, roomy.layer.weight, rtol=1e-5, atol=1e-6)


def test_what_has_once_failed_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    model = Cramped(3)
    with caplog.at_level(logging.WARNING, logger="MLPipeline"):
        trained(model, 16, 8, epochs=3)
    assert model.sizes[:2] == [8, 4] and model.sizes.count(8) == model.sizes.count(4) == 1
    assert set(model.sizes[2:]) == {2}
    assert [each.message for each in caplog.records] == [
        f"out of memory: a batch is now computed in {parts} parts; its size stays the same" for parts in (2, 4)
    ]


@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_where_a_single_image_does_not_fit_it_ends(batch_size: int) -> None:
    with pytest.raises(ResourceError, match="out of memory at a single image. Use a smaller --image-size or --model"):
        trained(Cramped(0), 16, batch_size)


def test_a_part_that_failed_leaves_no_gradient() -> None:
    """The first part fits, the second does not: what the first has left must not be counted twice."""

    class Leaking(Cramped):
        def forward(self, rows: Tensor) -> Tensor:
            logits = super().forward(rows)
            if self.training and len(self.sizes) == 3:  # 8 at once, then 4, then the other 4
                raise ERRORS["cpu"]
            return logits

    leaking, roomy = Leaking(4), Cramped(99)
    trained(leaking, 8, 8, epochs=1), trained(roomy, 8, 8, epochs=1)
    assert leaking.sizes[:3] == [8, 4, 4]
    torch.testing.assert_close(leaking.layer.weight, roomy.layer.weight, rtol=1e-5, atol=1e-6)


def test_another_error_is_not_taken_for_it() -> None:
    model = nn.Sequential(nn.Linear(NUM_FEATURES + 1, NUM_CLASSES))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trained(model, 8, 8)


def test_a_network_with_batchnorm_trains_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statistics are those of the parts, so the weights differ a little; but it learns."""
    model, config = network(), settings(epochs=20, lr=0.02, batch_size=6)
    state, before = TrainState(model, config, CPU), copy.deepcopy(model.state_dict())
    state.num_parts = 2
    data = batches(*images(12), 6, seed=0)
    records = list(fit(model, data, data, config, CPU, state=state))
    assert records[-1].train_loss < records[0].train_loss and math.isfinite(records[-1].val_loss)
    assert not torch.equal(before["backbone.stem.1.running_var"], model.state_dict()["backbone.stem.1.running_var"])
