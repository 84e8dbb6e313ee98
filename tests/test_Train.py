"""The training loop: it learns, keeps the best weights, stops when it must, and repeats itself bit for bit."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from MLPipeline.CreateDataset import Batches, one_hot
from MLPipeline.Errors import DivergedError
from MLPipeline.scoring.Predictions import Predictions
from MLPipeline.Train import fit, score
from MLPipeline.training.Optimizer import make_optimizer
from tests.support.train_cases import (
    CPU,
    NUM_CLASSES,
    NUM_FEATURES,
    FailingLinear,
    batches,
    copy_state,
    figures,
    linear,
    misleading_points,
    no_points,
    points,
    run,
    same,
    settings,
    train_points,
    val_points,
    with_dropout,
)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_head_learns_what_can_be_learnt(optimizer: str, precision: str) -> None:
    model = linear()
    records, _ = run(model, train_points(), val_points(), settings(epochs=12, optimizer=optimizer, precision=precision))
    assert records[-1].train_accuracy == records[-1].val_accuracy == 1
    assert records[-1].train_loss < records[0].train_loss / 3
    assert records[-1].val_loss < records[0].val_loss / 2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_record_holds_what_an_independent_computation_gives() -> None:
    model, (rows, labels), (val_rows, val_labels) = linear(), points(24), points(12, seed=1)
    before, num_right = cross_entropy(model(rows), labels).item(), (model(rows).argmax(1) == labels).sum().item()
    record = next(fit(model, train_points(batch_size=24), val_points(), settings(lr=0.01), CPU))
    assert record.train_loss == pytest.approx(before, rel=1e-6)  # of the weights before the only step
    assert record.train_accuracy == num_right / 24
    assert record.val_loss == pytest.approx(cross_entropy(model(val_rows), val_labels).item(), rel=1e-6)  # after it
    assert record.val_accuracy == pytest.approx((model(val_rows).argmax(1) == val_labels).double().mean().item())
    assert (record.epoch, record.lr, record.is_best) == (1, 0.01, True)
    assert record.seconds > 0


def test_the_mean_loss_counts_every_image_once() -> None:
    """10 images in batches of 8 and 2: not the mean of the two means."""
    model, (rows, labels) = linear(), points(10)
    expected = cross_entropy(model(rows), labels).item()
    record = next(fit(model, batches(rows, labels), no_points(), settings(optimizer="sgd", lr=1e-12), CPU))
    assert record.train_loss == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_by_hand() -> None:
    model, (rows, labels) = linear(), points(24)
    targets = 0.8 * one_hot(labels, NUM_CLASSES) + 0.2 / NUM_CLASSES
    expected = -(targets * model(rows).log_softmax(1)).sum(1).mean().item()
    config = settings(label_smoothing=0.2, optimizer="sgd", lr=1e-12)
    record = next(fit(model, train_points(), batches(rows, labels), config, CPU))
    assert record.train_loss == pytest.approx(expected, rel=1e-6)
    assert record.val_loss == pytest.approx(cross_entropy(model(rows), labels).item(), rel=1e-6)  # not smoothed


class MixedBatches(Batches):
    """Every row with a target of 70 % its class and 30 % the next, as mixup makes them."""

    def epoch(self, epoch: int, first_batch: int = 0) -> list[tuple[Tensor, Tensor]]:  # type: ignore[override]
        return [(rows, 0.7 * target + 0.3 * target.roll(1, dims=1)) for rows, target in super().epoch(epoch)]


def test_soft_targets() -> None:
    model, (rows, labels) = linear(), points(8)
    target = 0.7 * one_hot(labels, NUM_CLASSES) + 0.3 * one_hot((labels + 1) % NUM_CLASSES, NUM_CLASSES)
    expected = -(target * model(rows).log_softmax(1)).sum(1).mean().item()
    mixed = batches(rows, labels, kind=MixedBatches)
    record = next(fit(model, mixed, no_points(), settings(optimizer="sgd", lr=1e-12), CPU))
    assert record.train_loss == pytest.approx(expected, rel=1e-6)
    assert record.train_accuracy == (model(rows).argmax(1) == labels).double().mean().item()


def test_the_model_ends_with_the_weights_of_its_best_epoch() -> None:
    model = linear()
    records, states = run(model, train_points(), misleading_points(), settings(optimizer="sgd", lr=0.01))
    losses = [record.val_loss for record in records]
    assert losses[0] == min(losses) and len(records) == 6  # the first epoch is best, the others get worse
    assert same(copy_state(model), states[0]) and not same(states[0], states[-1])


def test_best_is_the_lowest_validation_loss_so_far() -> None:
    rows, labels = points(12)
    labels[:3] = (labels[:3] + 1) % NUM_CLASSES  # a quarter wrong: certainty pays at first, and then no more
    records, _ = run(linear(), train_points(), batches(rows, labels), settings(epochs=15))
    losses = [record.val_loss for record in records]
    assert [r.is_best for r in records] == [loss < min(losses[:n], default=math.inf) for n, loss in enumerate(losses)]
    assert 1 < losses.index(min(losses)) < 14


def test_epochs_of_fine_tuning_are_compared_by_the_calibrated_loss() -> None:
    """Whatever the confidence: logits of half the size have the same calibrated loss, and another plain one."""
    torch.manual_seed(0)
    model, data = linear(), train_points(2400)
    with torch.no_grad():
        halved = copy.deepcopy(model)
        for parameter in halved.parameters():
            parameter.div_(2)
    plain = [score(each, data.epoch(0), NUM_CLASSES, CPU) for each in (model, halved)]
    both = [score(each, data.epoch(0), NUM_CLASSES, CPU, is_calibrated=True) for each in (model, halved)]
    assert abs(plain[0].loss - plain[1].loss) > 0.01
    assert both[0].loss == pytest.approx(both[1].loss, abs=1e-3)  # but for the prior of the temperature
    assert both[0].loss <= min(plain[0].loss, plain[1].loss) + 1e-6 and both[0].accuracy == plain[0].accuracy
    tuned = settings(unfreeze_after=1, epochs=1)
    (found,) = fit(model, data, data, tuned, CPU)
    assert found.val_loss == pytest.approx(score(model, data.epoch(0), NUM_CLASSES, CPU, is_calibrated=True).loss)


@pytest.mark.parametrize(
    ("losses", "flags", "kept"),
    [
        ([[1.0, 1.2], [0.6, 0.6], [0.9, 0.5]], {}, 3),  # 0.1 +- 0.2 higher: it may be chance
        ([[1.0, 1.2], [0.6, 0.6], [0.9, 0.7]], {}, 2),  # 0.2 +- 0.1
        ([[1.0, 1.2], [0.6, 0.6], [0.5, 0.5]], {}, 3),
        ([[1.0, 1.2], [0.6, 0.6], [0.9, 0.5]], {"swa": 0.0}, 2),
        ([[1.0, 1.2], [0.6, 0.6], [0.9, 0.5]], {"unfreeze_after": None}, 2),
    ],
)
def test_the_average_at_the_end_is_kept_unless_an_epoch_is_clearly_better(
    losses: list[list[float]], flags: dict[str, object], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(model: nn.Module, *rest: object, is_calibrated: bool = False) -> Predictions:
        states.append(copy_state(model))
        known = [number for number, state in enumerate(states[:-1]) if same(state, states[-1])]
        chosen = torch.tensor(losses[known[0] if known else len(states) - 1])
        return Predictions(torch.stack([torch.zeros(2), chosen.expm1().log()], dim=1), torch.zeros(2, dtype=torch.long))

    states: list[dict[str, Tensor]] = []
    monkeypatch.setattr("MLPipeline.Train.score", scored)
    model, tuned = linear(), settings(**{"unfreeze_after": 1, "epochs": 3, "swa": 0.8, "ema": 0.9} | flags)
    records = list(fit(model, train_points(), val_points(2), tuned, CPU))
    assert [record.val_loss for record in records] == pytest.approx([sum(each) / 2 for each in losses])
    assert max(record.epoch for record in records if record.is_best) == kept
    assert same(copy_state(model), states[kept - 1])


def test_closed_early_it_keeps_the_best_weights_too() -> None:
    model = linear()
    epochs = fit(model, train_points(), misleading_points(), settings(optimizer="sgd", lr=0.01), CPU)
    states = [copy_state(model) for _ in itertools.islice(epochs, 3)]
    epochs.close()
    assert same(copy_state(model), states[0])


def test_interrupted_in_an_epoch_it_keeps_the_best_weights() -> None:
    def interrupted(items: Iterable, label: str, total: int) -> Iterator:
        for number, item in enumerate(items):
            if label == "epoch 3/6" and number == 1:
                raise KeyboardInterrupt
            yield item

    model = linear()
    states = []
    with pytest.raises(KeyboardInterrupt):
        for _ in fit(model, train_points(), val_points(), settings(), CPU, interrupted):
            states.append(copy_state(model))
    assert len(states) == 2 and same(copy_state(model), states[1])


@pytest.mark.parametrize(("value", "loss"), [(math.nan, "nan"), (-math.inf, "inf")])
def test_a_loss_that_is_no_number_ends_it_with_the_best_weights(value: float, loss: str) -> None:
    model, states = FailingLinear(fails_at=5, value=value), []
    train = batches(points(24)[0], torch.zeros(24, dtype=torch.int64))  # all of class 0, whose logit fails
    with pytest.raises(DivergedError) as caught:
        for _ in fit(model, train, no_points(), settings(), CPU):
            states.append(copy_state(model))
    assert str(caught.value) == f"epoch 2, batch 2: the loss is {loss} at --lr 0.05. Try --lr 0.005"
    assert len(states) == 1 and same(copy_state(model), states[0])


@pytest.mark.parametrize("val", [val_points(), no_points()], ids=["validation", "none"])
def test_weights_blown_up_by_the_last_step_of_an_epoch_are_never_best(val: Batches) -> None:
    model, states, num_steps = linear(), [], itertools.count(1)
    model.weight.register_hook(lambda gradient: gradient * math.nan if next(num_steps) == 6 else gradient)
    with pytest.raises(DivergedError) as caught:
        for _ in fit(model, train_points(), val, settings(), CPU):
            states.append(copy_state(model))
    assert str(caught.value).startswith("epoch 2, batch 3: the weights are not finite (loss ")
    assert len(states) == 1 and same(copy_state(model), states[0])


def test_the_same_seed_gives_the_same_numbers_bit_for_bit() -> None:
    histories = []
    for seed in (0, 0, 1, 2**64 - 1):
        torch.rand(7), np.random.rand(7)  # whatever was drawn before
        records, _ = run(with_dropout(), train_points(seed=seed), val_points(), settings(seed=seed))
        histories.append(figures(records))
    assert histories[0] == histories[1]
    assert histories[0] != histories[2] != histories[3]


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    """What the caller draws between epochs, and how many epochs there are to be, change nothing."""
    quiet, _ = run(with_dropout(), train_points(), val_points(), settings(epochs=5))
    noisy = []
    for record in fit(with_dropout(), train_points(), no_points(), settings(epochs=3), CPU):
        torch.rand(record.epoch)
        noisy.append(record.train_loss)
    assert noisy == [record.train_loss for record in quiet][:3]


def test_each_epoch_draws_anew() -> None:
    model = with_dropout().eval()  # as a model comes from a checkpoint: training mode is for `fit` to set
    config = settings(optimizer="sgd", lr=1e-12)  # the weights stay: only the draws differ
    losses = [record.train_loss for record in fit(model, batches(*points(24), seed=None), no_points(), config, CPU)]
    assert len({round(loss, 6) for loss in losses}) == len(losses)


def test_patience_counts_from_the_best_epoch() -> None:
    records, _ = run(linear(), train_points(), misleading_points(), settings(patience=2, optimizer="sgd", lr=0.01))
    assert [record.is_best for record in records] == [True, False, False]


def test_without_validation_images_the_training_loss_decides() -> None:
    model = linear()
    records, states = run(model, train_points(), no_points(), settings())
    assert all(math.isnan(record.val_loss) and math.isnan(record.val_accuracy) for record in records)
    assert all(record.is_best for record in records)
    assert same(copy_state(model), states[-1])


def test_validation_is_done_in_eval_mode_and_draws_nothing() -> None:
    model, (rows, labels) = with_dropout(), points(12, seed=1)
    record = next(fit(model, train_points(), val_points(), settings(), CPU))
    assert record.val_loss == pytest.approx(cross_entropy(model.eval()(rows), labels).item(), rel=1e-6)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(9, 8), (2, 8), (3, 1), (5, 64)])
def test_batchnorm_meets_no_batch_of_one_that_it_could_avoid(num_rows: int, batch_size: int) -> None:
    norm = nn.BatchNorm1d(NUM_FEATURES) if batch_size > 1 else nn.Identity()
    model = nn.Sequential(norm, nn.Linear(NUM_FEATURES, NUM_CLASSES))
    records, _ = run(model, train_points(num_rows, batch_size), val_points(), settings(batch_size=batch_size))
    assert len(records) == 6 and math.isfinite(records[-1].train_loss)


def test_one_training_image_is_enough() -> None:
    records, _ = run(linear(), train_points(1), no_points(), settings(epochs=2))
    assert records[1].train_loss < records[0].train_loss


@pytest.mark.parametrize(("optimizer", "decayed"), [("sgd", 0.95), ("adamw", 0.95), ("adam", 0.5)])
def test_weight_decay_spares_biases_and_normalisation(optimizer: str, decayed: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for parameter in (*model.parameters(), *frozen.parameters()):
        torch.nn.init.ones_(parameter)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    config = settings(optimizer=optimizer, lr=0.5, weight_decay=0.1)
    make_optimizer(nn.Sequential(model, frozen), config).step()
    assert model[0].weight.flatten().tolist() == pytest.approx([decayed] * 4)  # adam: a full step along the decay
    assert all(torch.equal(p, torch.ones(2)) for p in (model[0].bias, model[1].weight, model[1].bias))
    assert torch.equal(frozen.weight, torch.ones(2, 2))


@pytest.mark.parametrize(("optimizer", "moved"), [("sgd", 0.1 * (1 + 1.9)), ("adam", 0.2), ("adamw", 0.2)])
def test_two_steps_of_each_optimizer(optimizer: str, moved: float) -> None:
    """Along a constant gradient of 1: SGD gathers momentum 0.9, Adam moves by its learning rate."""
    weight = nn.Parameter(torch.zeros(1, 1))
    stepper = make_optimizer(nn.ParameterList([weight]), settings(optimizer=optimizer, lr=0.1))
    for _ in range(2):
        weight.grad = torch.ones(1, 1)
        stepper.step()
    assert -weight.item() == pytest.approx(moved, rel=1e-5)
