"""The training loop: `fit` yields one record per epoch; who calls it prints, saves and draws.

    for record in fit(model, train, val, config, device): ...          # train and val: see CreateDataset.Batches

The same loop trains a whole network on images and a head on stored features: both are a module and its batches.
B images of a batch, C classes.
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
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions, is_lower, joined, predict_batches
from MLPipeline.training.Balance import class_weights
from MLPipeline.training.DepthwiseGradient import fast_depthwise
from MLPipeline.training.Optimizer import SCHEDULES, set_learning_rate
from MLPipeline.training.TrainState import EpochRecord, TrainState

Item = TypeVar("Item")
AfterStep = Callable[[TrainState], None]

logger = logging.getLogger(__name__)


def do_nothing(state: TrainState) -> None:
    """The `after_step` of a training that saves no checkpoints."""


def fit(
    model: nn.Module,
    train: Batches,
    val: Batches,
    config: Config,
    device: torch.device,
    progress: Progress = no_progress,
    state: TrainState | None = None,
    after_step: AfterStep = do_nothing,
) -> Generator[EpochRecord, None, None]:
    """Train `model` on one-hot batches, yielding a record per epoch; the model ends with the weights of its best epoch.

    That also holds where the generator is closed early. Every random draw depends on (seed, epoch) alone. `state` (of
    this `model`) resumes an earlier training; `after_step`, called with it after every step, may save it or raise.

    Raises:
        DivergedError: the loss is not finite; the weights are those of the best epoch so far.
        ResourceError: there is not enough memory for a single image.
    """
    state = state or TrainState(model, config, device)
    weights = class_weights(train.labels, train.num_classes).to(device) if config.balance == "loss" else None
    try:
        while state.epoch < config.epochs and not _out_of_patience(state, config):
            start = time.perf_counter()
            with threads_for(model), whole_batch(model), fast_depthwise(model):  # the caller has threads of its own
                _train_epoch(state, train, config, weights, progress, after_step)
                state.average_epochs(config)
                is_tuned, val_batches = config.unfreeze_after is not None, _with_stops(val, after_step, state)
                found = score(state.eval_model, val_batches, val.num_classes, device, is_tuned)
                val_loss, val_accuracy = _figures(found)
            sums = state.sums
            train_loss, train_accuracy = sums.loss / sums.num_images, int(sums.num_correct) / sums.num_images
            loss = val_loss if len(val) else train_loss
            _require_finite(state, loss, f"epoch {state.epoch + 1}, batch {len(train)}", config)
            row = (train_loss, train_accuracy, val_loss, val_accuracy, state.optimizer.param_groups[0]["lr"])
            is_best = loss < state.best_loss or _is_whole_average(state, config, loss, found, val)
            state.end_epoch(EpochRecord(state.epoch + 1, *row, time.perf_counter() - start, is_best))
            yield state.history[-1]
    finally:
        state.restore_best()


def train_step(
    state: TrainState, images: Tensor, targets: Tensor, config: Config, class_weights: Tensor | None = None
) -> None:
    """Update the weights by one batch: images (B, ...) as the model takes them, targets (B, C) that sum to 1.

    Raises:
        DivergedError: the loss is not finite; the weights are as they were.
    """
    loss: float = 0.0
    num_correct: int | Tensor = 0
    state.zero_grad()
    for part, part_targets in _parts(images, targets, state.num_parts):  # one part, unless memory is short
        part_targets = part_targets.to(state.device, non_blocking=True)
        with autocast(state.device, state.dtype):
            logits = state.forward(part.to(state.device, non_blocking=True))
        # In float32, and divided by the size of the whole batch: so gradients add up over parts and over ranks.
        losses = cross_entropy(
            logits.float(), part_targets, class_weights, reduction="sum", label_smoothing=config.label_smoothing
        )
        mean_loss = losses / ranks.batch_size
        state.scaler.scale(mean_loss).backward()
        loss += mean_loss.item()
        num_correct += (logits.detach().argmax(1) == part_targets.argmax(1)).sum()
    loss, num_correct = ranks.sum(loss, num_correct)
    if not math.isfinite(loss):  # a loss that is not finite never reaches the weights
        raise _diverged(f"epoch {state.epoch + 1}, batch {state.batch + 1}: the loss is {loss}", config)
    sum_gradients(state.model)
    state.may_retry = False  # from here on the weights change: this step cannot be computed again
    if config.clip_norm:
        state.scaler.unscale_(state.optimizer)  # before clipping: the norm is that of the true gradients
        clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.step()
    if state.average:  # after the step: the average follows the weights
        state.average.update_parameters(state.model)
    state.sums.add(loss, ranks.batch_size, num_correct)


def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
    is_calibrated: bool = False,
) -> Predictions:
    """Return what `model` predicts in eval mode for this rank's images.

    With `is_calibrated`, at the temperature at which the loss on the images of all ranks is lowest: smoothed labels and
    averaged weights make a network less confident than it is right, which the calibration at the end of a run undoes.
    """
    predictions = predict_batches(model, batches, device, num_classes)
    return predictions.scaled(fit_temperature(joined(ranks.gather(predictions)))) if is_calibrated else predictions


def _figures(predictions: Predictions) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy over the images of all ranks; NaN without images."""
    is_correct = predictions.predicted == predictions.labels
    loss, num_correct, number = ranks.sum(predictions.losses.sum(), is_correct.sum(), len(is_correct))
    return (float(loss) / number, float(num_correct) / number) if number else (math.nan, math.nan)


def _is_whole_average(state: TrainState, config: Config, loss: float, found: Predictions, val: Batches) -> bool:
    """Return whether the epoch that ends is the last of a fine-tuning, and its averaged weights are to be kept.

    An average of more epochs is better, and which epoch has the lowest loss on a few hundred images is chance: so they
    are kept if the loss exceeds the lowest of this fine-tuning by less than the standard error of the difference.
    `loss` is that on all validation images; `found` is predicted for this rank's.
    """
    is_last = config.unfreeze_after is not None and state.epoch + 1 == config.epochs and state.epoch_average is not None
    before = [record.val_loss for record in state.history[: state.first_epoch] if record.is_best]
    if not is_last or state.best_epoch <= state.first_epoch or not all(loss < each for each in before):
        return False
    with state.with_best_weights():
        best = score(state.model, val, val.num_classes, state.device, is_calibrated=True)
    of_best, of_last = (torch.cat(ranks.gather(each.losses)) for each in (best, found))
    return not is_lower(of_best, of_last)


def _train_epoch(
    state: TrainState,
    train: Batches,
    config: Config,
    weights: Tensor | None,
    progress: Progress,
    after_step: AfterStep,
) -> None:
    """Take the remaining steps of the current epoch."""
    epoch, num_steps = state.epoch + 1, (config.epochs - state.first_epoch) * len(train)
    if not state.batch:  # a resumed epoch goes on with the random numbers of its state
        torch.manual_seed((config.seed * 1_000_003 + epoch) % 2**63)  # dropout
    state.model.train()
    batches, sizes = train.epoch(epoch, state.batch), train.sizes
    for images, targets in progress(batches, f"epoch {epoch}/{config.epochs}", len(batches)):
        num_done = (state.epoch - state.first_epoch) * len(train) + state.batch
        set_learning_rate(state.optimizer, SCHEDULES[config.schedule](num_done / num_steps))
        ranks.batch_size = sizes[state.batch]
        _step_within_memory(state, images, targets, config, weights)
        state.batch += 1
        after_step(state)


def _step_within_memory(
    state: TrainState, images: Tensor, targets: Tensor, config: Config, weights: Tensor | None
) -> None:
    """Take one step; where memory is short, this batch and all later ones are computed in twice as many parts."""
    while True:
        state.may_retry = True
        try:
            return train_step(state, images, targets, config, weights)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not state.may_retry:
                raise
            if state.num_parts >= len(images) or is_shared(state.model):
                what = "a single image" if state.num_parts >= len(images) else f"{len(images)} images per rank"
                hint = "Use a smaller --image-size or --model, or --freeze backbone"
                raise ResourceError(f"out of memory at {what}", hint) from error
        state.num_parts *= 2
        logger.warning("out of memory: a batch is now computed in %d parts; its size stays the same", state.num_parts)


def _parts(images: Tensor, targets: Tensor, number: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batch in `number` parts, or in as many as it has images: the last batch of an epoch may be small."""
    number = min(number, len(images))
    if number <= 1:
        return [(images, targets)]
    return zip(images.tensor_split(number), targets.tensor_split(number), strict=True)


def _with_stops(items: Iterable[Item], after_step: AfterStep, state: TrainState) -> Iterator[Item]:
    """Yield the items and call `after_step` after each: scoring many images takes a while, and may be stopped too."""
    for item in items:
        yield item
        after_step(state)


def _out_of_patience(state: TrainState, config: Config) -> bool:
    return bool(config.patience) and state.epoch - max(state.best_epoch, state.first_epoch) >= (config.patience or 0)


def _require_finite(state: TrainState, loss: float, where: str, config: Config) -> None:
    """Raise where the last step of an epoch has made the weights infinite: no later batch would show it."""
    tensors = itertools.chain(state.eval_model.state_dict().values(), [torch.tensor(loss)])
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise _diverged(f"{where}: the weights are not finite (loss {loss:g})", config)


def _diverged(what: str, config: Config) -> DivergedError:
    return DivergedError(f"{what} at --lr {config.lr:g}", f"Try --lr {config.lr / 10:g}")
