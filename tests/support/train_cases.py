"""Small problems for tests of Train: clusters of points, coloured squares, and modules that learn them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import NEUTRAL, Config
from MLPipeline.CreateDataset import Augment, Batches, one_hot
from MLPipeline.images.ScanFolders import ImageIndex
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import EpochRecord

CPU = torch.device("cpu")
NUM_CLASSES, NUM_FEATURES = 3, 6
State = dict[str, Tensor]


@dataclass(frozen=True)
class InMemory:
    """Rows in a tensor in memory."""

    rows: Tensor
    row_bytes = 4 * NUM_FEATURES

    def take(self, positions: np.ndarray, epoch: int = 0) -> Tensor:
        return self.rows[torch.from_numpy(positions)]


def batches(
    rows: Tensor,
    labels: Tensor,
    batch_size: int = 8,
    seed: int | None = None,
    kind: type[Batches] = Batches,
    augment: Augment | None = None,
    balanced: bool = False,
) -> Batches:
    classes = tuple("abc"[:NUM_CLASSES])
    splits, ends = np.zeros(len(rows), np.int8), np.zeros(len(rows), np.int64)
    index = ImageIndex(Path(), classes, labels.numpy().astype(np.int32), splits, (), b"", ends)
    return kind(InMemory(rows), index, 0, batch_size, seed, augment, balanced)


def points(num_rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return features (N, D) around one corner per class, and their labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % NUM_CLASSES
    return 2 * one_hot(labels, NUM_FEATURES) + 0.2 * torch.randn(num_rows, NUM_FEATURES, generator=generator), labels


def train_points(num_rows: int = 24, batch_size: int = 8, seed: int = 0) -> Batches:
    return batches(*points(num_rows), batch_size, seed)


def val_points(num_rows: int = 12) -> Batches:
    return batches(*points(num_rows, seed=1))


def misleading_points() -> Batches:
    """Return validation rows with wrong labels: the better the model learns, the worse its validation loss."""
    rows, labels = points(12)
    return batches(rows, (labels + 1) % NUM_CLASSES)


def no_points() -> Batches:
    return batches(torch.empty(0, NUM_FEATURES), torch.empty(0, dtype=torch.int64))


def settings(**stated: Any) -> Config:
    defaults = {"epochs": 6, "batch_size": 8, "optimizer": "adam", "lr": 0.05, "image_size": 8, "freeze": "none"}
    return Config(**{"precision": "fp32"} | dict(NEUTRAL) | defaults | stated)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(NUM_FEATURES, NUM_CLASSES)


def with_dropout(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(NUM_FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, NUM_CLASSES))


def network(seed: int = 0) -> Classifier:
    """Return a network of two stages with BatchNorm and a head with dropout."""
    torch.manual_seed(seed)
    stages = OrderedDict(
        stem=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        block=nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return Classifier(nn.Sequential(stages), nn.Sequential(nn.Dropout(0.25), nn.Linear(5, NUM_CLASSES)))


def images(number: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 8, 8) uint8 whose class is their brightest channel, and their labels (N,)."""
    labels = torch.arange(number) % NUM_CLASSES
    pixels = torch.randint(0, 120, (number, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    pixels[torch.arange(number), labels] += 100
    return pixels.to(torch.uint8), labels


class FailingLinear(nn.Module):
    """A linear layer that adds `value` to the logit of class 0 in its n-th training batch."""

    def __init__(self, fails_at: int, value: float) -> None:
        super().__init__()
        self.layer, self.fails_at, self.value, self.num_calls = linear(), fails_at, value, 0

    def forward(self, rows: Tensor) -> Tensor:
        self.num_calls += self.training
        extra = torch.zeros(NUM_CLASSES)
        extra[0] = self.value if self.training and self.num_calls == self.fails_at else 0.0
        return self.layer(rows) + extra


def copy_state(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run(model: nn.Module, train: Batches, val: Batches, config: Config) -> tuple[list[EpochRecord], list[State]]:
    """Train to the end; return the records of the epochs and the weights after each of them."""
    records: list[EpochRecord] = []
    states = [copy_state(model) for _ in keep(fit(model, train, val, config, CPU), records)]
    return records, states


def keep(epochs: Iterator[EpochRecord], records: list[EpochRecord]) -> Iterator[EpochRecord]:
    for record in epochs:
        records.append(record)
        yield record


def figures(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    """Return the reproducible part of the history: everything except the seconds."""
    return [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy, r.lr, r.is_best) for r in records]
