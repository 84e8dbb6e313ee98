"""Everything that changes during training: what `last.pt` holds, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from MLPipeline.Config import Config
from MLPipeline.Device import training_dtype
from MLPipeline.training.Compile import compiled
from MLPipeline.training.Optimizer import make_optimizer
from MLPipeline.training.WeightAverage import averaged, equal, moving


@dataclass(frozen=True)
class EpochRecord:
    """One row of `history.csv`; the `val_` values are NaN without validation images."""

    epoch: int  # from 1
    train_loss: float  # mean cross-entropy over the epoch, as the weights moved
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float  # of the head, at the end of the epoch
    seconds: float
    is_best: bool  # lowest validation loss so far (training loss without validation images), or the average to keep


@dataclass
class EpochSums:
    """Running sums of the current epoch."""

    loss: float = 0.0  # summed over the images
    num_images: int = 0
    num_correct: int | Tensor = 0  # stays on the device until it is needed: no step waits for it

    def add(self, mean_loss: float, num_images: int, num_correct: int | Tensor) -> None:
        """Add a batch."""
        self.loss += mean_loss * num_images
        self.num_images += num_images
        self.num_correct += num_correct


class TrainState:
    """The model and everything else that `fit` changes; consistent between any two steps.

    A second phase continues `history`: its epochs count on, and its weights replace the best so far only where they
    are better.
    """

    def __init__(
        self, model: nn.Module, config: Config, device: torch.device, history: Sequence[EpochRecord] = ()
    ) -> None:
        self.model, self.device = model, device
        self.forward = compiled(model, device, config.compile)
        self.optimizer = make_optimizer(model, config)
        # Without the hooks of profiler and compiler around it: they take as long as the step of a head.
        self._optimizer_step = inspect.unwrap(type(self.optimizer).step)
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.dtype = training_dtype(device, model, config.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.average = averaged(model, moving(config.ema)) if config.ema else None  # after every step
        self.epoch_average = averaged(model, equal) if config.swa else None  # over the last epochs
        self.history = list(history)
        self.first_epoch = self.epoch = len(history)  # epochs that are done
        self.batch = 0  # batches done of the epoch after those
        self.sums = EpochSums()
        self.num_parts = 1  # of a batch, computed one after the other: more where memory is short
        self.may_retry = False  # whether the step under way has not changed the weights yet
        best = max((record for record in history if record.is_best), key=lambda record: record.epoch, default=None)
        self.best_epoch = best.epoch if best else 0
        self.best_loss = _loss(best) if best else math.inf
        self.best_state: dict[str, Any] | None = copy.deepcopy(model.state_dict()) if best else None

    @property
    def eval_model(self) -> nn.Module:
        """The model that is scored and saved: with averaged weights, where they are averaged."""
        if self.epoch_average and int(self.epoch_average.n_averaged):
            return self.epoch_average.module
        return self._epoch_model

    @property
    def _epoch_model(self) -> nn.Module:
        """The model with the weights of the current epoch."""
        return self.average.module if self.average else self.model

    def zero_grad(self) -> None:
        """Drop the gradients of the previous step."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Take one step of the optimizer."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # which skips the step where gradients overflowed
            self.scaler.update()
        else:
            with torch.no_grad():
                self._optimizer_step(self.optimizer)

    def average_epochs(self, config: Config) -> None:
        """After the steps of an epoch: add its weights to the average over the last epochs, once.

        Source: Izmailov et al., Averaging weights leads to wider optima and better generalization, arXiv:1803.05407.
        """
        if self.epoch_average is None:
            return
        num_averaged = round(config.swa * (config.epochs - self.first_epoch))
        if int(self.epoch_average.n_averaged) < self.epoch + 1 - (config.epochs - num_averaged):
            self.epoch_average.update_parameters(self._epoch_model)

    def end_epoch(self, record: EpochRecord) -> None:
        """Record a finished epoch, and keep its weights if it is the best so far."""
        self.history.append(record)
        self.epoch, self.batch, self.sums = record.epoch, 0, EpochSums()
        if record.is_best:
            self.best_epoch, self.best_loss = record.epoch, _loss(record)
            self.best_state = copy.deepcopy(self.eval_model.state_dict())

    def restore_best(self) -> None:
        """Load the weights of the best epoch into the model."""
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)

    @contextmanager
    def with_best_weights(self) -> Iterator[None]:
        """Give the model the weights of its best epoch inside the `with` block."""
        current = copy.deepcopy(self.model.state_dict())
        self.restore_best()
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors and plain types."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "epoch_average": self.epoch_average.state_dict() if self.epoch_average else None,
            "history": [asdict(record) for record in self.history],
            "first_epoch": self.first_epoch,
            "batch": self.batch,
            "sums": [self.sums.loss, self.sums.num_images, int(self.sums.num_correct)],
            "num_chunks": self.num_parts,
            "best": [self.best_epoch, self.best_loss, self.best_state],
            "draws": [generator.get_rng_state() for generator in self._generators],
        }

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, including the random numbers to come."""
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        if self.average:
            self.average.load_state_dict(stored["average"])
        if self.epoch_average and stored.get("epoch_average"):  # not in files of earlier versions
            self.epoch_average.load_state_dict(stored["epoch_average"])
        self.history = [EpochRecord(**record) for record in stored["history"]]
        self.first_epoch, self.epoch, self.batch = stored["first_epoch"], len(self.history), stored["batch"]
        self.sums, self.num_parts = EpochSums(*stored["sums"]), stored["num_chunks"]
        self.best_epoch, self.best_loss, self.best_state = stored["best"]
        for generator, draws in zip(self._generators, stored["draws"], strict=False):  # fewer on another device
            generator.set_rng_state(draws)

    @property
    def _generators(self) -> list[Any]:
        """The random number generators that training draws from: the CPU's, and the device's own."""
        return [torch, *([torch.get_device_module(self.device)] if self.device.type != "cpu" else [])]


def _loss(record: EpochRecord) -> float:
    """Return the loss that decides which epoch is best."""
    return record.train_loss if math.isnan(record.val_loss) else record.val_loss
