"""What training must leave alone: the frozen stages, and the threads of those who call it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.CreateDataset import Batches
from MLPipeline.Train import fit
from tests.support.train_cases import (
    CPU,
    State,
    batches,
    copy_state,
    images,
    linear,
    network,
    no_points,
    points,
    run,
    settings,
    train_points,
    val_points,
    with_dropout,
)


def of_images() -> Batches:
    return batches(*images(), batch_size=5, seed=0)


def moved(before: State, after: State) -> set[str]:
    return {name.rsplit(".", 2)[0] for name in before if not torch.equal(before[name], after[name])}


def test_a_whole_network_learns_images() -> None:
    records, _ = run(network(), of_images(), of_images(), settings(epochs=20, lr=0.02))
    assert records[-1].train_loss < records[0].train_loss / 2
    assert max(record.val_accuracy for record in records) == 1


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("backbone", {"head"}),
        ("stem", {"backbone.block", "head"}),
        ("none", {"backbone.stem", "backbone.block", "head"}),
    ],
)
def test_parameters_and_buffers_of_frozen_stages_do_not_move(until: str, expected: set[str]) -> None:
    model = network()
    model.freeze(until)
    before = copy_state(model)
    run(model, of_images(), of_images(), settings(epochs=2))
    changed = {name.removesuffix(".weight").removesuffix(".bias") for name in moved(before, copy_state(model))}
    assert changed == expected


def test_a_head_trained_on_stored_features_is_the_head_trained_on_images() -> None:
    """So the features of a frozen backbone need be computed only once."""
    heads = []
    for stored in (False, True):
        model = network()
        model.freeze("backbone")
        rows, labels = images()
        rows = model.frozen_features(rows).detach() if stored else rows
        data = batches(rows, labels, batch_size=5, seed=0)
        run(model.trainable_part() if stored else model, data, data, settings(epochs=3))
        heads.append(model.head[1].weight)
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-4, atol=1e-6)


class CountsThreads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()
        self.seen: set[int] = set()

    def forward(self, rows: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        return self.layer(rows)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_two_threads")
def test_a_head_trains_on_one_thread_and_the_caller_keeps_its_own() -> None:
    model = CountsThreads()
    for _ in fit(model, train_points(), val_points(), settings(epochs=2), CPU):
        assert torch.get_num_threads() == 2
    assert model.seen == {1}
    assert torch.get_num_threads() == 2


def test_the_bar_gets_each_epoch_with_its_length() -> None:
    labels = []

    def progress(items: object, label: str, total: int) -> object:
        labels.append((label, total))
        return items

    list(fit(linear(), batches(*points(17)), no_points(), settings(epochs=2), CPU, progress))  # type: ignore[arg-type]
    assert labels == [("epoch 1/2", 2), ("epoch 2/2", 2)]  # 8 and 9: a last batch of one joins the one before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_is_no_longer_than_the_clipped_gradient(precision: str) -> None:
    """With fp16, whose gradients are scaled up, too: it is the true gradient that is clipped."""
    model = linear()
    before = copy_state(model)
    config = settings(optimizer="sgd", lr=0.5, clip_norm=0.01, epochs=1, precision=precision)
    run(model, train_points(batch_size=24), val_points(), config)
    moved_by = torch.cat([(model.state_dict()[name] - tensor).flatten() for name, tensor in before.items()])
    assert moved_by.norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_dropout_is_drawn_from_the_seed_of_the_run() -> None:
    """The batches are the same here: what they draw from has a seed of its own."""
    losses = [run(with_dropout(), train_points(), no_points(), settings(seed=seed))[0][0].train_loss for seed in (0, 1)]
    assert losses[0] != losses[1]
