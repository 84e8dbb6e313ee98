"""The table of the predictions on labelled images, for `predictions.csv`.

N images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from MLPipeline.scoring.Predictions import Predictions

if TYPE_CHECKING:  # imported where a table is made: pandas takes 0.3 s
    import pandas as pd

MAX_CLASS_COLUMNS = 100  # above this number of classes, tables have only the most probable ones
NUM_TOP_CLASSES = 10


def predictions_table(
    predictions: Predictions, paths: Sequence[str], split: str, classes: Sequence[str]
) -> pd.DataFrame:
    """Return one row per image: path, split, true, predicted, confidence, loss, p_<class>...; figures to 6 decimals.

    With more than `MAX_CLASS_COLUMNS` classes, a column for each would make a table of many megabytes: instead of
    `p_<class>` there are class_2, confidence_2, ..., class_10, confidence_10, and `all_probabilities` has the rest.
    """
    import pandas as pd

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
    import pandas as pd

    best = predictions.probabilities.topk(NUM_TOP_CLASSES)
    columns: dict[str, Any] = {}
    for place in range(1, NUM_TOP_CLASSES):
        columns[f"class_{place + 1}"] = names.take(best.indices[:, place].numpy()).to_numpy()
        columns[f"confidence_{place + 1}"] = best.values[:, place].numpy()
    return pd.DataFrame(columns)


def all_probabilities(predictions: Sequence[Predictions]) -> np.ndarray:
    """Return the probabilities (N, C) float16 of the rows of `predictions.csv`: three digits, and 0 below 6e-8."""
    return torch.cat([each.probabilities for each in predictions]).half().numpy()
