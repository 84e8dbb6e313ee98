"""Optuna for the search: samplers with fixed seeds, trials saved in a file, no console output."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from MLPipeline.Errors import ResourceError, is_out_of_memory
from MLPipeline.files.AtomicFile import unwritable

try:
    import optuna
    from optuna import Study, Trial
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import TrialState
except ImportError as error:
    if is_out_of_memory(error):
        raise
    raise ResourceError("tune: needs Optuna", "Run pip install 'optuna>=4'") from error

__all__ = ["Study", "Trial", "TrialState", "importances", "make_sampler", "open_study"]

NUM_RANDOM = 10  # random trials at the beginning
_NUM_UNPRUNED = 5  # complete trials before others are compared with them
_FIRST_PRUNED_EPOCH = 3
_JOURNAL = "journal.log"

logger = logging.getLogger(__name__)


def make_sampler(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Return a sampler that chooses the next trial by the multivariate tree-structured Parzen estimator.

    Create one for each trial, so that its draws depend only on the seed and the number of earlier trials.
    Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Watanabe, arXiv:2304.11127.
    """
    draw = int(np.random.SeedSequence([seed, num_trials]).generate_state(1)[0])
    with _quiet():
        return optuna.samplers.TPESampler(seed=draw, n_startup_trials=NUM_RANDOM, multivariate=True)


def open_study(folder: Path) -> Study:
    """Return the study in `folder`, empty if it is new; trials worse than the median are pruned.

    A damaged file is renamed.

    Raises:
        ResourceError: the folder cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / _JOURNAL
    try:
        _drop_half_line(journal)
        try:
            return _open(journal)
        except (ValueError, KeyError) as error:  # JSON's errors are ValueErrors
            aside = journal.with_name(_JOURNAL + ".damaged")
            os.replace(journal, aside)
            logger.warning(
                "%s is damaged (%s): it was renamed to %s, and the search starts again", journal, error, aside.name
            )
            return _open(journal)
    except OSError as error:
        raise unwritable(folder, error) from error


def importances(study: Study) -> dict[str, float]:
    """Return the importance of each setting for being among the best tenth; shares that sum to 1, the largest first.

    Source: Watanabe et al., PED-ANOVA, arXiv:2304.10255.
    """
    with _quiet():
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


class _Journal(JournalFileBackend):
    """Optuna's journal without its lock, since one process uses the folder, and without a disk flush after each line.

    Flushing took as long as a short trial; without it, a power failure may lose the last few trials.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append each of `logs` as a line."""
        with open(self._file_path, "ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())


def _open(journal: Path) -> Study:
    storage = JournalStorage(_Journal(str(journal)))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_NUM_UNPRUNED, n_warmup_steps=_FIRST_PRUNED_EPOCH)
    return optuna.create_study(storage=storage, pruner=pruner, study_name="head", load_if_exists=True)


def _drop_half_line(journal: Path) -> None:
    """Remove an incomplete last line, left by a killed search: the next line would be appended to it."""
    if journal.exists():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
