"""The predictions of a model on labelled images: logits, probabilities, losses.

N images, B images of a batch, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from MLPipeline.Errors import DataError


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

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats; NaN without images."""
        return self.losses.mean().item()

    @property
    def accuracy(self) -> float:
        """The share of images classified correctly; NaN without images."""
        return (self.predicted == self.labels).double().mean().item()


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all parts, in order."""
    return Predictions(torch.cat([part.logits for part in parts]), torch.cat([part.labels for part in parts]))


def require_finite(logits: Tensor) -> Tensor:
    """Return `logits` (B, C); weights that are finite but damaged can still give NaN, which is no answer.

    Raises:
        DataError: one of them is not a finite number.
    """
    if not bool(logits.isfinite().all()):
        what = "the model gives NaN or infinite numbers for some images: its weights are damaged, or too large"
        raise DataError(what, "Try --precision fp32; if that does not help, train the model again")
    return logits


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


def is_lower(losses: Tensor, others: Tensor) -> bool:
    """Return whether the mean of `losses` (N,) is lower than that of `others` (N,), of the same images.

    The difference must exceed its standard error.
    """
    gains = others - losses
    return len(gains) > 1 and bool(gains.mean() > gains.std() / len(gains) ** 0.5)
