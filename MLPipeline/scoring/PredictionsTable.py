"""The table of the predictions on labelled images, for `predictions.csv`.

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from MLPipeline.scoring.Predictions import Predictions

MAX_CLASS_COLUMNS = 100  # above this number of classes, tables have only the most probable ones
NUM_TOP_CLASSES = 10
_DECIMALS = 6

Columns = dict[str, list[Any]]  # a table: its columns by their names


def predictions_table(predictions: Predictions, paths: Sequence[str], split: str, classes: Sequence[str]) -> Columns:
    """Return one row per image: path, split, true, predicted, confidence, loss, p_<class>...; figures to 6 decimals.

    With more than `MAX_CLASS_COLUMNS` classes, a column for each would make a table of many megabytes: instead of
    `p_<class>` there are class_2, confidence_2, ..., class_10, confidence_10, and `all_probabilities` has the rest.
    """
    probabilities = predictions.probabilities
    about: Columns = {
        "path": list(paths),
        "split": [split] * len(paths),
        "true": [classes[label] for label in predictions.labels.tolist()],
        "predicted": [classes[label] for label in predictions.predicted.tolist()],
        "confidence": _figures(predictions.confidence),
        "loss": _figures(predictions.losses),
    }
    if len(classes) > MAX_CLASS_COLUMNS:
        return about | _most_probable(probabilities, classes)
    return about | {f"p_{name}": _figures(probabilities[:, place]) for place, name in enumerate(classes)}


def _most_probable(probabilities: torch.Tensor, classes: Sequence[str]) -> Columns:
    """Return the columns class_2, confidence_2, ... of the most probable classes after the first."""
    best = probabilities.topk(NUM_TOP_CLASSES)
    columns: Columns = {}
    for place in range(1, NUM_TOP_CLASSES):
        columns[f"class_{place + 1}"] = [classes[label] for label in best.indices[:, place].tolist()]
        columns[f"confidence_{place + 1}"] = _figures(best.values[:, place])
    return columns


def _figures(values: torch.Tensor) -> list[float]:
    return np.round(values.numpy(), _DECIMALS).tolist()


def all_probabilities(predictions: Sequence[Predictions]) -> np.ndarray:
    """Return the probabilities (N, C) float16 of the rows of `predictions.csv`: three digits, and 0 below 6e-8."""
    return torch.cat([each.probabilities for each in predictions]).half().numpy()
