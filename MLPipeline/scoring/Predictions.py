"""The predictions of a model on labelled images: logits, probabilities, losses, and their table.

N images, B images of a batch, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_CLASS_COLUMNS = 100  # above this number of classes, tables have only the most probable ones
NUM_TOP_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Predictions:
    """The logits of a model for N labelled images, in the order in which they were read."""

    logits: Tensor  # (N, C) float32, on the CPU; as the model returns them
    labels: Tensor  # (N,) int64: the true classes
    temperature: float = 1.0  # divides the logits before the softmax; see Calibrate

    def scaled(self, temperature: float) -> Predictions:
        """Return the same predictions at another `temperature`."""
        return replace(self, temperature=temperature)

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits: `(N, C)` float64, so that probabilities close to 1 keep their order."""
        return (self.logits.double() / self.temperature).softmax(dim=1)

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each image: `(N,)` int64."""
        return self.logits.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """The probability of the predicted class: `(N,)` float64."""
        return self.probabilities.amax(dim=1)

    @property
    def losses(self) -> Tensor:
        """The cross-entropy of each image, in nats: `(N,)` float64."""
        return functional.cross_entropy(self.logits.double() / self.temperature, self.labels, reduction="none")


def predict_batches(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, num_classes: int
) -> Predictions:
    """Return the predictions of `model` (on `device`) in eval mode; its mode is restored afterwards.

    `batches` are inputs `(B, ...)` of the model and one-hot targets `(B, C)` (C = `num_classes`); there may be none.
    """
    logits, labels = [torch.empty(0, num_classes)], [torch.empty(0, dtype=torch.int64)]
    with in_eval_mode(model), torch.inference_mode():
        for inputs, targets in batches:
            logits.append(model(inputs.to(device, non_blocking=True)).float().cpu())
            labels.append(targets.argmax(dim=1).cpu())
    return Predictions(torch.cat(logits), torch.cat(labels))


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put all of `model` into eval mode inside the `with` block, and restore the mode of each module after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def worst_mistakes(predictions: Predictions, limit: int) -> list[int]:
    """Return the positions of up to `limit` misclassified images, the highest loss first."""
    wrong = (predictions.predicted != predictions.labels).nonzero().flatten()
    order = predictions.losses[wrong].argsort(descending=True, stable=True)
    return wrong[order][:limit].tolist()


def predictions_table(
    predictions: Predictions, paths: Sequence[str], split: str, classes: Sequence[str]
) -> pd.DataFrame:
    """Return one row per image: path, split, true, predicted, confidence, loss, p_<class>...; figures to 6 decimals.

    With more than `MAX_CLASS_COLUMNS` classes, a column for each would make a table of many megabytes: instead of
    `p_<class>` there are class_2, confidence_2, ..., class_10, confidence_10, and `all_probabilities` has the rest.
    """
    # dtype object: the string type of pandas may refuse the surrogates of a file name that is not UTF-8.
    names = pd.Series(list(classes), dtype=object)
    about = pd.DataFrame(
        {
            "path": pd.Series(list(paths), dtype=object),
            "split": split,
            "true": names.take(predictions.labels.numpy()).to_numpy(),
            "predicted": names.take(predictions.predicted.numpy()).to_numpy(),
            "confidence": predictions.confidence.numpy(),
            "loss": predictions.losses.numpy(),
        }
    )
    if len(classes) > MAX_CLASS_COLUMNS:
        probabilities = _most_probable(predictions, names)
    else:
        probabilities = pd.DataFrame(predictions.probabilities.numpy(), columns=[f"p_{name}" for name in classes])
    return pd.concat([about, probabilities], axis=1).round(6)


def _most_probable(predictions: Predictions, names: pd.Series) -> pd.DataFrame:
    """Return the columns class_2, confidence_2, ... of the most probable classes after the first."""
    best = predictions.probabilities.topk(NUM_TOP_CLASSES)
    columns: dict[str, Any] = {}
    for place in range(1, NUM_TOP_CLASSES):
        columns[f"class_{place + 1}"] = names.take(best.indices[:, place].numpy()).to_numpy()
        columns[f"confidence_{place + 1}"] = best.values[:, place].numpy()
    return pd.DataFrame(columns)


def all_probabilities(predictions: Sequence[Predictions]) -> np.ndarray:
    """Return the probabilities (N, C) float16 of the rows of `predictions.csv`: three digits, and 0 below 6e-8."""
    return torch.cat([each.probabilities for each in predictions]).half().numpy()
