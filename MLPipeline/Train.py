"""Optimisation and nothing else: `fit` yields one record per epoch; Engine prints, saves and draws.

The same loop trains a whole network on images and a head on stored features; both are just a module and its batches.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches, Progress, no_progress
from MLPipeline.Device import threads_for, training_dtype
from MLPipeline.Errors import DivergedError
from MLPipeline.Evaluate import predict_batches

_MOMENTUM = 0.9


@dataclass(frozen=True)
class EpochRecord:
    """One row of `history.csv`; the `val_` values are NaN without validation images."""

    epoch: int  # from 1
    train_loss: float  # mean cross-entropy over the epoch, as the weights moved
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    is_best: bool  # lowest validation loss so far (training loss without validation images)


def fit(
    model: nn.Module,
    train: Batches,
    val: Batches,
    config: Config,
    device: torch.device,
    progress: Progress = no_progress,
) -> Generator[EpochRecord, None, None]:
    """Train `model` on one-hot batches, yielding a record per epoch; it ends with the weights of its best epoch.

    So it does when the generator is closed early (Ctrl-C). Every draw depends on (seed, epoch) alone.

    Raises:
        DivergedError: the loss is not finite; the weights are those of the best epoch before.
    """
    optimizer = make_optimizer(model, config)
    dtype = training_dtype(device, model, config.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    best_loss, best_state, best_epoch = math.inf, None, 0
    try:
        for epoch in range(1, config.epochs + 1):
            start = time.perf_counter()
            torch.manual_seed((config.seed * 1_000_003 + epoch) % 2**63)  # dropout
            batches = progress(train.epoch(epoch), f"epoch {epoch}/{config.epochs}", len(train))
            with threads_for(model):  # not around the `yield`: the caller's work between epochs is none of ours
                train_loss, train_accuracy = _train_epoch(model, batches, optimizer, scaler, dtype, config, epoch)
                val_loss, val_accuracy = score(model, val, device)
            loss = val_loss if len(val) else train_loss
            _require_finite(model, loss, f"epoch {epoch}, batch {len(train)}", config)
            is_best = loss < best_loss
            if is_best:
                best_loss, best_epoch, best_state = loss, epoch, copy.deepcopy(model.state_dict())
            seconds = time.perf_counter() - start
            lr = optimizer.param_groups[0]["lr"]
            yield EpochRecord(epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, seconds, is_best)
            if config.patience and epoch - best_epoch >= config.patience:
                return
    finally:
        if best_state is not None:
            model.load_state_dict(best_state)


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters; weight decay spares biases and normalisation (vectors)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trainable, "weight_decay": 0.0}]
    if config.weight_decay:  # a second group doubles the cost of a step on a head
        decayed = [p for p in trainable if p.ndim > 1]
        groups[0]["params"] = [p for p in trainable if p.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": config.weight_decay})
    # fused: one pass over memory for all parameters, on the CPU too.
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=_MOMENTUM, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    return torch.optim.Adam(groups, lr=config.lr, fused=True)


def score(model: nn.Module, batches: Batches, device: torch.device) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of `model` in eval mode; NaN without images."""
    if not len(batches):
        return math.nan, math.nan
    predictions = predict_batches(model, batches, device, batches.num_classes)
    right = predictions.predicted == predictions.labels
    return predictions.losses.mean().item(), right.double().mean().item()


def _train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype,
    config: Config,
    epoch: int,
) -> tuple[float, float]:
    model.train()
    device = next(model.parameters()).device
    summed_loss, num_images, num_right = 0.0, 0, torch.zeros((), dtype=torch.int64, device=device)
    for number, (inputs, targets) in enumerate(batches, start=1):
        targets = targets.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(inputs.to(device))
        logits = logits.float()
        loss = cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
        if not math.isfinite(value := loss.item()):
            raise _diverged(f"epoch {epoch}, batch {number}: the loss is {value}", config)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        summed_loss += value * len(logits)
        num_images += len(logits)
        num_right += (logits.detach().argmax(1) == targets.argmax(1)).sum()
    return summed_loss / num_images, num_right.item() / num_images


def _require_finite(model: nn.Module, loss: float, where: str, config: Config) -> None:
    """Raise for weights that an epoch's last step has blown up: no later batch tells."""
    tensors = model.state_dict().values()
    if not (math.isfinite(loss) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)):
        raise _diverged(f"{where}: the weights blew up (loss {loss:g})", config)


def _diverged(what: str, config: Config) -> DivergedError:
    return DivergedError(f"{what} at --lr {config.lr:g}", f"Try --lr {config.lr / 10:g}")
