"""All that changes while a model is trained: what `last.pt` holds, for a resumed run to equal an uninterrupted one."""

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
from torch.optim.swa_utils import AveragedModel

from MLPipeline.Config import Config
from MLPipeline.Device import training_dtype
from MLPipeline.training.Compile import compiled
from MLPipeline.training.Optimizer import make_optimizer

Tensors = tuple[Tensor, ...] | list[Tensor]


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
    is_best: bool  # lowest validation loss so far (training loss without validation images)


@dataclass
class EpochSums:
    """What has been counted since the epoch began."""

    loss: float = 0.0  # summed over the images
    num_images: int = 0
    num_right: int | Tensor = 0  # on the device until it is asked for: no waiting at every step


class TrainState:
    """The model with all that `fit` changes beside it; whole between any two steps.

    A second phase goes on where `history` ends: its epochs count on, and only what is better than the best so far
    replaces it.
    """

    def __init__(
        self, model: nn.Module, config: Config, device: torch.device, history: Sequence[EpochRecord] = ()
    ) -> None:
        self.model, self.device = model, device
        self.forward = compiled(model, device, config.compile)
        self.optimizer = make_optimizer(model, config)
        # Without the profiler's and the compiler's hooks around it: they take as long as the step of a head.
        self._step = inspect.unwrap(type(self.optimizer).step)
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.dtype = training_dtype(device, model, config.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.average = _average(model, config.ema) if config.ema else None
        self.history = list(history)
        self.first_epoch = self.epoch = len(history)  # epochs that are done
        self.batch = 0  # batches done of the epoch after
        self.sums = EpochSums()
        self.num_chunks = 1  # parts of a batch that are computed one after the other: more where memory is short
        best = max((record for record in history if record.is_best), key=lambda record: record.epoch, default=None)
        self.best_epoch = best.epoch if best else 0
        self.best_loss = _loss(best) if best else math.inf
        self.best_state: dict[str, Any] | None = copy.deepcopy(model.state_dict()) if best else None

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and kept: the average of the weights, where one is made."""
        return self.average.module if self.average else self.model

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters:
            parameter.grad = None

    def move(self) -> None:
        """Take one step along the gradients, and let the average follow."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            with torch.no_grad():
                self._step(self.optimizer)
        if self.average:
            self.average.update_parameters(self.model)

    def end_epoch(self, record: EpochRecord) -> None:
        """Take note of a finished epoch."""
        self.history.append(record)
        self.epoch, self.batch, self.sums = record.epoch, 0, EpochSums()
        if record.is_best:
            self.best_epoch, self.best_loss = record.epoch, _loss(record)
            self.best_state = copy.deepcopy(self.judged.state_dict())

    def restore_best(self) -> None:
        """Put the weights of the best epoch into the model."""
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)

    @contextmanager
    def showing_best(self) -> Iterator[None]:
        """Let the model have the weights of its best epoch inside the block."""
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
            "history": [asdict(record) for record in self.history],
            "first_epoch": self.first_epoch,
            "batch": self.batch,
            "sums": [self.sums.loss, self.sums.num_images, int(self.sums.num_right)],
            "num_chunks": self.num_chunks,
            "best": [self.best_epoch, self.best_loss, self.best_state],
            "draws": [generator.get_rng_state() for generator in self._generators],
        }

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Become the state that `state_dict` told, the random numbers to come included."""
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        if self.average:
            self.average.load_state_dict(stored["average"])
        self.history = [EpochRecord(**record) for record in stored["history"]]
        self.first_epoch, self.epoch, self.batch = stored["first_epoch"], len(self.history), stored["batch"]
        self.sums, self.num_chunks = EpochSums(*stored["sums"]), stored["num_chunks"]
        self.best_epoch, self.best_loss, self.best_state = stored["best"]
        for generator, draws in zip(self._generators, stored["draws"], strict=False):  # strict: was it another device?
            generator.set_rng_state(draws)

    @property
    def _generators(self) -> list[Any]:
        """The modules whose random numbers the training draws: the CPU's, and the device's own."""
        return [torch, *([torch.get_device_module(self.device)] if self.device.type != "cpu" else [])]


def _loss(record: EpochRecord) -> float:
    """Return the loss that decides which epoch is best."""
    return record.train_loss if math.isnan(record.val_loss) else record.val_loss


def _average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of `model`, BatchNorm's statistics included.

    Early on it follows more closely, or it would be made of random weights for long: the decay grows with the number
    of steps as (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """

    @torch.no_grad()
    def move(averages: Tensors, currents: Tensors, num_steps: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(num_steps)) / (10 + int(num_steps)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, weight)
        else:  # BatchNorm's counter of batches
            torch._foreach_copy_(averages, currents)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)
