"""Exact resume: a training stopped at any step, and while it is scored, ends as if it had never been stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from MLPipeline.Augment import make_augmentation
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import TrainState
from tests.support.resume_cases import Training, differences
from tests.support.train_cases import (
    CPU,
    batches,
    images,
    misleading_points,
    network,
    no_points,
    points,
    settings,
    with_dropout,
)

FINE_TUNING = {
    "schedule": "onecycle",
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "ema": 0.9,
    "swa": 0.5,
    "clip_norm": 1.0,
    "layer_decay": 0.5,
    "optimizer": "adamw",
}


def on_features(folder: Path, **stated: Any) -> Training:
    """Two epochs of five batches of seven rows (their bytes fill no cache line) and three batches to score."""
    config = settings(epochs=2, batch_size=7, **stated)
    train = batches(*points(35), 7, seed=3, balanced=config.balance == "sampler")
    return Training(lambda seed: with_dropout(seed), train, batches(*points(12, seed=1), 5), config, folder)


def on_images(folder: Path, augment: str = "hflip,rotate,crop,jitter,erase,mixup", **stated: Any) -> Training:
    """Two epochs of three batches of a whole network with BatchNorm and dropout, every layer trained."""
    config = settings(epochs=2, batch_size=5, lr=0.01, **stated)
    train = batches(*images(15), 5, seed=3, augment=make_augmentation(augment), balanced=config.balance == "sampler")
    return Training(network, train, batches(*images(6, seed=1), 4), config, folder)


def require_exact(training: Training) -> None:
    """Stop at every step, and at every batch that is scored."""
    whole = training.run()
    num_stops = training.num_stops()
    assert num_stops == training.config.epochs * (len(training.train) + len(training.val))
    for stop_at in range(1, num_stops + 1):
        assert differences(whole, training.run(stop_at)) == [], f"stopped when asked the {stop_at}-th time"


def test_a_head_on_features(tmp_path: Path) -> None:
    require_exact(on_features(tmp_path, schedule="onecycle", ema=0.9, swa=1.0, weight_decay=0.1, label_smoothing=0.2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"optimizer": "sgd", "schedule": "step"},
        {"optimizer": "adamw", "schedule": "cosine", "weight_decay": 0.1},
        {"precision": "bf16", "label_smoothing": 0.2},
        {"precision": "fp16", "clip_norm": 0.1},
        {"balance": "sampler"},
        {"balance": "loss", "seed": 2**64 - 1},
    ],
    ids=str,
)
def test_a_head_on_features_otherwise(stated: dict[str, Any], tmp_path: Path) -> None:
    require_exact(on_features(tmp_path, **stated))


def test_a_whole_network_with_all_that_can_be_asked_for(tmp_path: Path) -> None:
    require_exact(on_images(tmp_path, **FINE_TUNING))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("adam", "constant"), ("sgd", "step"), ("adam", "cosine"), ("sgd", "onecycle")]
)
def test_a_whole_network_under_each_schedule(optimizer: str, schedule: str, tmp_path: Path) -> None:
    require_exact(on_images(tmp_path, optimizer=optimizer, schedule=schedule))


@pytest.mark.slow
@pytest.mark.parametrize(
    "stated",
    [
        {"augment": "randaugment,cutmix"},
        {"augment": "trivial,vflip,translate"},
        {"precision": "bf16"} | FINE_TUNING,
        {"precision": "fp16"} | FINE_TUNING,
        {"balance": "sampler"} | FINE_TUNING,
        {"balance": "loss"} | FINE_TUNING,
    ],
    ids=str,
)
def test_a_whole_network_otherwise(stated: dict[str, Any], tmp_path: Path) -> None:
    require_exact(on_images(tmp_path, **stated))


def frozen(until: str) -> Callable[[int], Classifier]:
    """Return a maker of networks that share their frozen stages, as two processes do that load the same weights."""

    def make(seed: int) -> Classifier:
        model, other = network(), network(seed)
        model.freeze(until)
        trained = model.backbone[model.num_frozen_stages :], model.head
        sources = other.backbone[model.num_frozen_stages :], other.head
        for part, source in zip(trained, sources, strict=True):
            part.load_state_dict(source.state_dict())
        return model

    return make


@pytest.mark.slow
@pytest.mark.parametrize("until", ["backbone", "stem"])
def test_a_network_with_frozen_stages(until: str, tmp_path: Path) -> None:
    training = on_images(tmp_path, ema=0.9, layer_decay=0.5, weight_decay=0.1)
    require_exact(Training(frozen(until), training.train, training.val, training.config, tmp_path))


@pytest.mark.slow
def test_a_training_that_loses_its_patience(tmp_path: Path) -> None:
    config = settings(epochs=9, patience=2, optimizer="sgd", lr=0.01)
    training = Training(lambda seed: with_dropout(seed), batches(*points(16), 8), misleading_points(), config, tmp_path)
    whole = training.run()
    assert [record["is_best"] for record in whole["history"]] == [True, False, False]
    for stop_at in range(1, training.num_stops() + 1):
        assert differences(whole, training.run(stop_at)) == []


@pytest.mark.slow
def test_without_images_to_score(tmp_path: Path) -> None:
    training = on_features(tmp_path)
    require_exact(Training(training.make, training.train, no_points(), training.config, tmp_path))


def test_between_epochs_while_the_caller_saves(tmp_path: Path) -> None:
    """As `run_phase` does: the model has its latest weights then, not its best."""
    training = on_features(tmp_path, optimizer="sgd", lr=0.01)
    training = Training(training.make, training.train, misleading_points(), training.config, tmp_path)
    state = TrainState(training.make(0), training.config, CPU)
    saver = training.saver()
    epochs = fit(state.model, training.train, training.val, training.config, CPU, state=state)
    next(epochs)
    saver.save(state)
    epochs.close()
    assert differences(training.run(), training.resume()) == []


def shuffled(draws: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.get_rng_state(), *draws[1:]]


@pytest.mark.parametrize(
    ("what", "lost"),
    [
        ("optimizer", lambda stored: stored["optimizer"] | {"state": {}}),
        ("draws", lambda stored: shuffled(stored["draws"])),
        ("sums", lambda stored: [0.0, 0, 0]),
        ("average", lambda stored: stored["average"] | {"n_averaged": torch.tensor(0)}),
        ("epoch_average", lambda stored: None),
        ("batch", lambda stored: 0),
        ("history", lambda stored: []),
        ("best", lambda stored: [0, float("inf"), None]),
        ("first_epoch", lambda stored: 1),
    ],
)
def test_whatever_is_lost_shows(what: str, lost: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    """The negative control: each part of the state is needed, or the tests above would say nothing."""
    training = on_features(tmp_path, ema=0.9, swa=1.0, schedule="cosine", optimizer="sgd", lr=0.01)
    training = Training(training.make, training.train, misleading_points(), training.config, tmp_path)
    whole, stop_at = training.run(), len(training.train) + len(training.val) + 2  # in the second epoch
    assert differences(whole, training.run(stop_at)) == []
    assert differences(whole, training.run(stop_at, lambda stored: stored.update({what: lost(stored)})))


def test_a_scale_that_is_lost_shows(tmp_path: Path) -> None:
    training = on_features(tmp_path, precision="fp16")
    changed = training.run(2, lambda stored: stored["scaler"].update(scale=2.0))
    assert "scaler" in "".join(differences(training.run(), changed))


def test_a_module_keeps_nothing_of_its_first_weights() -> None:
    """What makes the tests above strict: the module that goes on begins with other weights."""
    first, second = with_dropout(0).state_dict(), with_dropout(99).state_dict()
    assert all(not torch.equal(first[name], second[name]) for name in first)
    assert isinstance(network(), nn.Module) and isinstance(settings(), Config)
