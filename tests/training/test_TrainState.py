"""What a training holds: the average of its weights, its best weights, and that a file of it is whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Train import fit
from MLPipeline.training.StoredState import state_fits
from MLPipeline.training.TrainState import EpochRecord, TrainState
from tests.support.resume_cases import content_of, differences
from tests.support.train_cases import CPU, batches, copy_state, images, linear, network, same, settings

RECORD = EpochRecord(1, 0.5, 0.5, 0.4, 0.6, 0.01, 1.0, True)


def record(epoch: int, val_loss: float, is_best: bool) -> EpochRecord:
    return EpochRecord(epoch, 0.9, 0.5, val_loss, 0.6, 0.01, 1.0, is_best)


def test_the_average_is_that_of_a_hand_computation_batchnorm_included() -> None:
    model, decay = network(), 0.6
    state = TrainState(model, settings(ema=decay, epochs=3, batch_size=5, lr=0.05), CPU)
    expected: dict[str, Tensor] = {}
    num_steps = 0

    def follow(state: TrainState) -> None:
        nonlocal num_steps
        if state.batch + state.epoch * 3 <= num_steps:  # called while scoring
            return
        num_steps += 1
        for name, tensor in state.model.state_dict().items():
            if num_steps == 1 or not tensor.is_floating_point():
                expected[name] = tensor.clone()
            else:
                kept = min(decay, num_steps / (9 + num_steps))  # (1 + n) / (10 + n) with n steps before
                expected[name] = kept * expected[name] + (1 - kept) * tensor

    data = batches(*images(15), 5, seed=0)
    for _ in fit(
        model, data, data, settings(ema=decay, epochs=3, batch_size=5, lr=0.05), CPU, state=state, after_step=follow
    ):
        averaged = state.eval_model.state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(averaged[name], tensor, rtol=1e-4, atol=1e-5)
    assert num_steps == 9
    assert any("running_var" in name for name in expected) and any("num_batches" in name for name in expected)


def test_the_average_is_what_is_scored_and_kept() -> None:
    state = TrainState(network(), settings(ema=0.9), CPU)
    assert state.eval_model is not state.model
    with torch.no_grad():
        state.eval_model.head[1].bias.fill_(7.0)
    state.end_epoch(RECORD)
    state.restore_best()
    assert state.model.head[1].bias.tolist() == [7.0] * 3
    assert TrainState(model := network(), settings(), CPU).eval_model is model


def test_the_weights_of_the_last_epochs_are_averaged_equally_batchnorm_included() -> None:
    config = settings(swa=0.5, epochs=4, batch_size=5, lr=0.05)
    state, data = TrainState(network(), config, CPU), batches(*images(15), 5, seed=0)
    ends = []
    for record in fit(state.model, data, data, config, CPU, state=state):
        ends.append(copy_state(state.model))
        averaged = state.eval_model.state_dict()
        if record.epoch <= 2:
            assert state.eval_model is state.model
            continue
        for name, newest in ends[-1].items():
            is_counter = not newest.is_floating_point()
            expected = newest if is_counter else torch.stack([each[name] for each in ends[2:]]).mean(0)
            torch.testing.assert_close(averaged[name], expected, rtol=1e-5, atol=1e-6)
    assert len(ends) == 4 and not same(ends[2], ends[3])


def test_with_both_averages_the_epochs_contribute_their_moving_averages() -> None:
    state = TrainState(network(), config := settings(ema=0.9, swa=1.0, epochs=2), CPU)
    for value in (3.0, 5.0):
        with torch.no_grad():
            state.average.module.head[1].bias.fill_(value)
        for _ in range(2):  # a run that was stopped while scoring comes here again
            state.average_epochs(config)
        state.end_epoch(RECORD)
    assert state.eval_model.head[1].bias.tolist() == [4.0] * 3


def test_a_state_of_an_earlier_version_has_no_average_over_epochs() -> None:
    config = settings(swa=1.0, epochs=2)
    stored = TrainState(network(), config, CPU).state_dict()
    del stored["epoch_average"]
    state = TrainState(network(), config, CPU)
    assert state_fits(stored, state)
    state.load_state_dict(stored)
    assert state.eval_model is state.model


def test_the_best_weights_are_copies() -> None:
    model = linear()
    state = TrainState(model, settings(), CPU)
    before = copy_state(model)
    state.end_epoch(RECORD)
    with torch.no_grad():
        model.weight.add_(1)
    state.end_epoch(record(2, 0.5, is_best=False))
    assert (state.best_epoch, state.best_loss, state.epoch) == (1, 0.4, 2)
    with state.with_best_weights():
        assert same(copy_state(model), before)
        with pytest.raises(KeyError), state.with_best_weights():
            raise KeyError
    assert not same(copy_state(model), before)
    state.restore_best()
    assert same(copy_state(model), before)


def test_a_second_phase_goes_on_where_the_first_has_ended() -> None:
    model = linear()
    history = [record(1, 0.5, True), record(2, 0.3, True), record(3, 0.4, False)]
    state = TrainState(model, settings(), CPU, history)
    assert (state.first_epoch, state.epoch, state.best_epoch, state.best_loss) == (3, 3, 2, 0.3)
    assert state.best_state is not None and same(dict(state.best_state), copy_state(model))
    assert history is not state.history  # the list of the caller stays as it is
    state.end_epoch(record(4, 0.35, False))
    assert len(history) == 3 and state.best_epoch == 2


def test_a_second_phase_that_is_worse_leaves_the_first_ones_weights() -> None:
    model = network()
    state = TrainState(model, settings(epochs=4, lr=1.0, optimizer="sgd"), CPU, [record(1, 1e-9, True)])
    before, data = copy_state(model), batches(*images(10), 5, seed=0)
    epochs = [each.epoch for each in fit(model, data, data, settings(epochs=4, lr=1.0), CPU, state=state)]
    assert epochs == [2, 3, 4] and not any(each.is_best for each in state.history[1:])
    assert same(copy_state(model), before)


def test_patience_begins_anew_with_a_second_phase() -> None:
    history = [record(1, 1e-9, True), record(2, 0.5, False), record(3, 0.5, False)]
    config, data = settings(epochs=20, patience=2), batches(*images(10), 5, seed=0)
    model = network()
    state = TrainState(model, config, CPU, history)
    assert [each.epoch for each in fit(model, data, data, config, CPU, state=state)] == [4, 5]


def test_without_validation_images_the_training_loss_decides_in_a_second_phase_too() -> None:
    history = [EpochRecord(1, 0.25, 0.5, math.nan, math.nan, 0.01, 1.0, True)]
    assert TrainState(linear(), settings(), CPU, history).best_loss == 0.25


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_state_told_and_loaded_is_the_same(precision: str) -> None:
    config = settings(ema=0.9, precision=precision, epochs=2, weight_decay=0.1)
    first, second = (TrainState(network(seed), config, CPU) for seed in (0, 1))
    data = batches(*images(10), 5, seed=0)
    list(fit(first.model, data, data, config, CPU, state=first))
    first.batch, first.num_parts, first.sums.num_correct = 1, 4, torch.tensor(3)
    assert differences(content_of(first), content_of(second))
    second.load_state_dict(first.state_dict())
    assert differences(content_of(first), content_of(second)) == []
    assert (second.epoch, second.batch, second.num_parts, second.sums.num_correct) == (2, 1, 4, 3)


def test_the_random_numbers_to_come_are_those_of_then() -> None:
    state = TrainState(linear(), settings(), CPU)
    stored = state.state_dict()
    expected = torch.rand(4)
    torch.rand(9)
    state.load_state_dict(stored)
    assert torch.equal(torch.rand(4), expected)


def test_a_run_of_a_gpu_can_go_on_without_one() -> None:
    """Its draws come with a second generator's, which is not here."""
    state = TrainState(linear(), settings(), CPU)
    stored = state.state_dict()
    assert len(stored["draws"]) == 1  # no CUDA context is made for a run on the CPU
    state.load_state_dict(stored | {"draws": [*stored["draws"], torch.zeros(16, dtype=torch.uint8)]})


def test_all_is_plain_so_that_a_safe_load_reads_it() -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, (str, int)) and plain(each) for key, each in value.items())
        if isinstance(value, (list, tuple)):
            return all(plain(each) for each in value)
        return value is None or type(value) in (int, float, bool, str) or isinstance(value, Tensor)

    state = TrainState(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), settings(ema=0.5, precision="fp16"), CPU)
    state.sums.num_correct = torch.tensor(1)
    assert plain(state.state_dict())
