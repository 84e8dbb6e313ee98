"""Optimisation and nothing else: `fit` yields one record per epoch; Engine prints, saves and draws.

The same loop trains a whole network on images and a head on stored features; both are just a module and its batches.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches
from MLPipeline.Device import autocast, threads_for
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.distributed.WholeBatch import is_shared, sum_gradients, whole_batch
from MLPipeline.Errors import DivergedError, ResourceError, is_out_of_memory
from MLPipeline.images.ReadAhead import Progress, no_progress
from MLPipeline.scoring.Predictions import predict_batches
from MLPipeline.training.Balance import class_weights
from MLPipeline.training.Optimizer import SCHEDULES, set_learning_rate
from MLPipeline.training.TrainState import EpochRecord, TrainState

Item = TypeVar("Item")
Keep = Callable[[TrainState], None]

logger = logging.getLogger(__name__)


def keep_nothing(state: TrainState) -> None:
    """Do nothing: the `keep` of those who save no checkpoints."""


def fit(
    model: nn.Module,
    train: Batches,
    val: Batches,
    config: Config,
    device: torch.device,
    progress: Progress = no_progress,
    state: TrainState | None = None,
    keep: Keep = keep_nothing,
) -> Generator[EpochRecord, None, None]:
    """Train `model` on one-hot batches, yielding a record per epoch; it ends with the weights of its best epoch.

    So it does when the generator is closed early. Every draw depends on (seed, epoch) alone. `state` (of this `model`)
    says where to go on; `keep` is called with it after every step, where it may save it, or raise to stop.

    Raises:
        DivergedError: the loss is not finite; the weights are those of the best epoch before.
        ResourceError: the memory does not suffice for a single image.
    """
    state = state or TrainState(model, config, device)
    weights = class_weights(train.labels, train.num_classes).to(device) if config.balance == "loss" else None
    try:
        while state.epoch < config.epochs and not _is_patient_no_more(state, config):
            start = time.perf_counter()
            with threads_for(model), whole_batch(model):  # not around the `yield`: the caller's work is none of ours
                _train_epoch(state, train, config, weights, progress, keep)
                val_loss, val_accuracy = score(state.judged, _each(val, keep, state), val.num_classes, device)
            sums = state.sums
            train_loss, train_accuracy = sums.loss / sums.num_images, int(sums.num_right) / sums.num_images
            loss = val_loss if len(val) else train_loss
            _require_finite(state, loss, f"epoch {state.epoch + 1}, batch {len(train)}", config)
            lr, seconds = state.optimizer.param_groups[0]["lr"], time.perf_counter() - start
            figures = (train_loss, train_accuracy, val_loss, val_accuracy, lr, seconds)
            state.end_epoch(EpochRecord(state.epoch + 1, *figures, is_best=loss < state.best_loss))
            yield state.history[-1]
    finally:
        state.restore_best()


def score(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int, device: torch.device
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of `model` in eval mode; NaN without images."""
    predictions = predict_batches(model, batches, device, num_classes)
    right = predictions.predicted == predictions.labels
    loss, num_right, number = ranks.sum(predictions.losses.sum(), right.sum(), len(right))
    return (float(loss) / number, float(num_right) / number) if number else (math.nan, math.nan)


def _train_epoch(
    state: TrainState, train: Batches, config: Config, weights: Tensor | None, progress: Progress, keep: Keep
) -> None:
    """Take the steps of the running epoch that are still to be taken."""
    epoch, num_steps = state.epoch + 1, (config.epochs - state.first_epoch) * len(train)
    if not state.batch:  # else the state has brought its draws with it
        torch.manual_seed((config.seed * 1_000_003 + epoch) % 2**63)  # dropout
    state.model.train()
    batches, sizes = train.epoch(epoch, state.batch), train.sizes
    for inputs, targets in progress(batches, f"epoch {epoch}/{config.epochs}", len(batches)):
        num_done = (state.epoch - state.first_epoch) * len(train) + state.batch
        set_learning_rate(state.optimizer, SCHEDULES[config.schedule](num_done / num_steps))
        ranks.batch_size = sizes[state.batch]
        _step(state, inputs, targets, config, weights)
        state.batch += 1
        keep(state)


def _step(state: TrainState, inputs: Tensor, targets: Tensor, config: Config, weights: Tensor | None) -> None:
    """Move the weights by one batch; where memory is short, its gradient is gathered in parts, from then on."""
    while True:
        try:
            state.zero_grad()
            loss, num_right = _gradient(state, inputs, targets, config, weights)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if state.num_chunks >= len(inputs) or is_shared(state.model):
                images = "a single image" if state.num_chunks >= len(inputs) else f"{len(inputs)} images per rank"
                hint = "Use a smaller --image-size or --model, or --freeze backbone"
                raise ResourceError(f"out of memory at {images}", hint) from error
        state.num_chunks *= 2
        logger.warning("out of memory: a batch is now computed in %d parts, its size stays", state.num_chunks)
    loss, num_right = ranks.sum(loss, num_right)
    if not math.isfinite(loss):
        raise _diverged(f"epoch {state.epoch + 1}, batch {state.batch + 1}: the loss is {loss}", config)
    sum_gradients(state.model)
    if config.clip_norm:
        state.scaler.unscale_(state.optimizer)
        clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.move()
    state.sums.loss += loss * ranks.batch_size
    state.sums.num_images += ranks.batch_size
    state.sums.num_right += num_right


def _gradient(
    state: TrainState, inputs: Tensor, targets: Tensor, config: Config, weights: Tensor | None
) -> tuple[float, int | Tensor]:
    """Leave the gradient of this rank's share in the parameters; return its part of the mean loss, and its hits."""
    total: float = 0.0
    num_right: int | Tensor = 0
    for images, wanted in _chunks(inputs, targets, state.num_chunks):
        wanted = wanted.to(state.device, non_blocking=True)
        with autocast(state.device, state.dtype):
            logits = state.forward(images.to(state.device, non_blocking=True))
        losses = cross_entropy(logits.float(), wanted, weights, reduction="sum", label_smoothing=config.label_smoothing)
        loss = losses / ranks.batch_size
        state.scaler.scale(loss).backward()
        total += loss.item()
        num_right = num_right + (logits.detach().argmax(1) == wanted.argmax(1)).sum()
    return total, num_right


def _chunks(inputs: Tensor, targets: Tensor, number: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batch in `number` parts, or in as many as it has images: the last one of an epoch may be small."""
    number = min(number, len(inputs))
    if number <= 1:
        return [(inputs, targets)]
    return zip(inputs.tensor_split(number), targets.tensor_split(number), strict=True)


def _each(items: Iterable[Item], keep: Keep, state: TrainState) -> Iterator[Item]:
    """Yield the items, with a chance to stop after each: scoring many images takes a while, too."""
    for item in items:
        yield item
        keep(state)


def _is_patient_no_more(state: TrainState, config: Config) -> bool:
    return bool(config.patience) and state.epoch - max(state.best_epoch, state.first_epoch) >= (config.patience or 0)


def _require_finite(state: TrainState, loss: float, where: str, config: Config) -> None:
    """Raise for weights that an epoch's last step has blown up: no later batch tells."""
    tensors = itertools.chain(state.judged.state_dict().values(), [torch.tensor(loss)])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise _diverged(f"{where}: the weights blew up (loss {loss:g})", config)


def _diverged(what: str, config: Config) -> DivergedError:
    return DivergedError(f"{what} at --lr {config.lr:g}", f"Try --lr {config.lr / 10:g}")
