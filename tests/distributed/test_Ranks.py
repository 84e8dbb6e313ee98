"""What ranks do together: who has which share, training on shares, sums, answers in order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DivergedError
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import TrainState
from tests.support.rank_cases import alone, refused, together
from tests.support.train_cases import (
    CPU,
    FailingLinear,
    batches,
    copy_state,
    figures,
    no_points,
    points,
    settings,
    train_points,
    val_points,
    with_dropout,
)

FITS: dict[str, dict[str, Any]] = {
    "dropout": {"epochs": 3},
    "uneven": {"num_rows": 23, "batch_size": 5, "num_val": 7},
    "fewer images than ranks": {"num_rows": 7, "batch_size": 1, "num_val": 1},
    "no validation images": {"num_val": 0},
    "BatchNorm, averaged weights, clipped": {"ema": 0.9, "clip_norm": 0.1, "label_smoothing": 0.1, "norm": True},
    "mixed with the image before": {"num_rows": 23, "batch_size": 5, "mixed": True},
    "weighted": {"balance": "loss", "optimizer": "sgd"},
}


def network(norm: bool) -> nn.Module:
    model = with_dropout()
    # No bias before BatchNorm: its gradient is zero but for rounding, and Adam would make steps of it.
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), *model[1:]) if norm else model


def mix(rows: Tensor, targets: Tensor, seed: int, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
    """As mixup does, by shares that depend on the image."""
    share = (indices % 3 / 4)[:, None]
    return torch.lerp(rows, rows.roll(1, 0), share), torch.lerp(targets, targets.roll(1, 0), share)


def fitted(
    num_rows: int = 24,
    num_val: int = 12,
    batch_size: int = 8,
    norm: bool = False,
    mixed: bool = False,
    **stated: Any,
) -> tuple[list[tuple[float, ...]], dict[str, Tensor], int]:
    model, config = network(norm), settings(**{"epochs": 2} | stated)
    val = val_points(num_val) if num_val else no_points()
    train = batches(*points(num_rows), batch_size, 0, augment=mix if mixed else None)
    records = list(fit(model, train, val, config, CPU))
    return figures(records), copy_state(model), ranks.size


def diverged() -> str:
    """What a rank says where the loss of rank 1 alone is not finite."""
    model = FailingLinear(fails_at=2 if ranks.rank else 99, value=float("nan"))
    try:
        list(fit(model, train_points(), val_points(), settings(), CPU))
    except DivergedError as error:
        return str(error)
    return "nothing"


def short_of_memory() -> tuple[Any, int]:
    """Rank 1 alone can compute no more than two images at once."""
    model, state = with_dropout()[0::3], None
    forward = model.forward

    def limited(rows: Tensor) -> Tensor:
        if ranks.rank and len(rows) > 2 and model.training:
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    model.forward = limited
    state = TrainState(model, settings(epochs=2), CPU)
    list(fit(model, train_points(), val_points(), settings(epochs=2), CPU, state=state))
    return {name: tensor.clone() for name, tensor in state.best_state.items()}, state.num_parts


def exchanges() -> dict[str, Any]:
    """One of everything that ranks tell each other."""
    number, acts = 3 + 4 * ranks.rank, []
    items = list(ranks.in_step(range(number), number, every=2, act=lambda: acts.append(ranks.sum(1))))
    places = np.arange(5)[ranks.dealt]
    numbers = np.full(5, -1)
    numbers[places] = places * 10
    ranks.share_numbers(numbers)
    return {
        "sum": ranks.sum(1.5, ranks.rank),
        "max": ranks.max(-ranks.rank),
        "gather": ranks.gather(f"from {ranks.rank}"),
        "to first": ranks.to_first(ranks.rank),
        "from first": ranks.from_first(ranks.rank),
        "in order": list(ranks.in_order(iter(places.tolist()))),
        "in step": (items, len(acts)),
        "merge": ranks.merge(places, torch.from_numpy(places)[:, None], 5),
        "numbers": numbers.tolist(),
        "share": ranks.mine(5),
    }


def comparisons(folder: Path) -> list[str]:
    own = folder / f"machine {ranks.rank}"
    own.mkdir(exist_ok=True)
    return [
        refused(lambda: ranks.require_same({"classes": "a", "images": str(ranks.rank)})),
        refused(lambda: ranks.require_same({"classes": "a"})),
        refused(lambda: ranks.require_shared(own)),
        refused(lambda: ranks.require_shared(folder)),
    ]


def everything(folder: str) -> dict[str, Any]:
    results: dict[str, Any] = {name: fitted(**stated) for name, stated in FITS.items()}
    results |= {"diverged": diverged(), "memory": short_of_memory(), "exchanges": exchanges()}
    return results | {"comparisons": comparisons(Path(folder))}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return together(2, partial(everything, str(folder)), folder)


@pytest.mark.parametrize("name", FITS)
def test_two_ranks_train_as_one_process_does(of_two: list[dict[str, Any]], name: str) -> None:
    history, weights, _ = fitted(**FITS[name])
    for rank in range(2):
        its_history, its_weights, size = of_two[rank][name]
        assert size == 2
        np.testing.assert_allclose(its_history, history, rtol=1e-5, atol=1e-6)
        for tensor, one in weights.items():
            torch.testing.assert_close(its_weights[tensor], one, rtol=1e-4, atol=1e-5)
            assert torch.equal(its_weights[tensor], of_two[0][name][1][tensor])


def test_a_loss_that_is_not_finite_on_one_rank_ends_all(of_two: list[dict[str, Any]]) -> None:
    for results in of_two:
        assert results["diverged"].startswith("epoch 1, batch 2: the loss is nan")


def test_a_rank_short_of_memory_computes_its_share_in_parts(of_two: list[dict[str, Any]]) -> None:
    (first, first_chunks), (second, second_chunks) = (results["memory"] for results in of_two)
    assert (first_chunks, second_chunks) == (1, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_exchanges(of_two: list[dict[str, Any]]) -> None:
    first, second = (results["exchanges"] for results in of_two)
    for exchanged in (first, second):
        assert exchanged["sum"] == [3.0, 1.0]
        assert exchanged["max"] == 0
        assert exchanged["gather"] == ["from 0", "from 1"]
        assert exchanged["from first"] == 0
        assert exchanged["merge"].tolist() == [[0], [1], [2], [3], [4]]
        assert exchanged["numbers"] == [0, 10, 20, 30, 40]
    assert (first["to first"], second["to first"]) == ([0, 1], [])
    assert (first["in order"], second["in order"]) == ([0, 1, 2, 3, 4], [])
    assert (first["in step"], second["in step"]) == (([0, 1, 2], 3), ([0, 1, 2, 3, 4, 5, 6], 3))
    assert (first["share"], second["share"]) == (slice(0, 2), slice(2, 5))


def test_what_differs_between_ranks_is_named(of_two: list[dict[str, Any]]) -> None:
    for results in of_two:
        different, same, unshared, shared = results["comparisons"]
        assert different.startswith("rank 1: not the same images as rank 0. Start the same command")
        assert "rank 1 cannot see what rank 0 writes there. Give an --output on storage" in unshared
        assert (same, shared) == ("nothing", "nothing")


def test_one_process_is_a_group_of_one() -> None:
    group = alone()
    group.meet("cpu")
    acts: list[int] = []
    assert (group.rank, group.size, group.is_first, group.launch) == (0, 1, True, "")
    assert group.mine(5) == slice(0, 5) and group.dealt == slice(0, None, 1)
    assert (group.sum(2, 3.5), group.max(4), group.gather("a"), group.from_first("b")) == ([2, 3.5], 4, ["a"], "b")
    assert list(group.in_order(iter("cd"))) == ["c", "d"]
    assert list(group.in_step(range(5), 5, 2, lambda: acts.append(1))) == [0, 1, 2, 3, 4] and len(acts) == 2
    rows = torch.ones(2, 1)
    assert group.merge(np.arange(2), rows, 2) is rows
    group.require_same({"images": "a"})
    group.leave()


def test_every_thing_is_dealt_to_one_rank() -> None:
    for size in (1, 2, 3, 7):
        groups = [alone(RANK=rank) for rank in range(size)]
        for group in groups:
            group.size = size
        for number in (0, 1, 2, 5, 20):
            things = list(range(number))
            assert sum((things[group.mine(number)] for group in groups), []) == things
            assert sorted(sum((things[group.dealt] for group in groups), [])) == things
            sizes = [len(things[group.mine(number)]) for group in groups]
            assert max(sizes) - min(sizes) <= 1
