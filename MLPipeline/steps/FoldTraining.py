"""`--folds K` where more than a head is trained: the training is repeated without each fold, and tested on it.

The validation images choose the epochs of every fold, as those of the run itself, and are not tested.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from MLPipeline.console.Console import note, say
from MLPipeline.Evaluate import Scorer, SplitPredictions, validate
from MLPipeline.Features import Dataset
from MLPipeline.heads.Ensemble import NOT_COMPARED, Ensemble
from MLPipeline.heads.Folds import Fold, make_folds
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL
from MLPipeline.report.Page import duration
from MLPipeline.report.Report import counted
from MLPipeline.scoring.Calibrate import fit_temperature
from MLPipeline.scoring.Predictions import Predictions, joined
from MLPipeline.steps.ChooseSize import choose_size
from MLPipeline.steps.FitPhases import fit_phases
from MLPipeline.steps.Job import Job
from MLPipeline.steps.PartOfRun import part_of
from MLPipeline.training.Soup import State, blended


def train_folds(job: Job, dataset: Dataset) -> tuple[SplitPredictions, Mapping[int, int], Ensemble | None]:
    """Return the predictions for all images but those of validation, each by a network trained without its fold.

    Also returns the classes of fewer folds, with their numbers, and with `--ensemble` what came of it: the model of the
    run then has the mean weights of these networks, if they validate better.

    Raises:
        DivergedError: the loss of a fold is not finite.
        ResourceError: the folder of a fold cannot be written.
    """
    config, index, positions = job.config, job.index, job.index.positions(TRAIN)
    groups = positions if index.groups is None else index.groups[positions]
    assert config.folds is not None
    folds = make_folds(index.labels[positions], groups, len(index.classes), config.folds, config.seed)
    seconds = duration(sum(record.seconds for record in job.history))
    say(f"folds    the training is repeated {len(folds.parts)} times, about {seconds} each")
    mean: State = {}
    found = []
    for number, fold in enumerate(folds.parts, start=1):
        part = _fold_job(job, number, replace(fold, others=positions[fold.others], tested=positions[fold.tested]))
        found.append(_train_and_test(part))
        if config.ensemble:
            state = part.model.state_dict()
            mean = blended(mean, state, 1 / number) if mean else state
        accuracy = f"accuracy {100 * found[-1].predictions.accuracy:.1f} %"
        say(f"fold     {number} of {len(folds.parts)}: {accuracy} of {counted(len(found[-1].positions), 'image')}")
    ensemble = _keep_better(job, dataset, mean) if config.ensemble else None
    return _in_order(found), folds.short, ensemble


def _fold_job(job: Job, number: int, fold: Fold) -> Job:
    """Return the training of one fold: that of the run, from the same initial weights, on other images."""
    splits = np.where(job.index.splits == VAL, VAL, UNSPLIT).astype(np.int8)
    splits[fold.others], splits[fold.tested] = TRAIN, TEST
    return part_of(job, f"fold-{number}", replace(job.index, splits=splits), job.config.seed)


def _train_and_test(job: Job) -> SplitPredictions:
    """Train without a fold, and return the calibrated predictions for its images."""
    dataset = choose_size(job, fit_phases(job))
    scorer = Scorer(job.model, dataset, job.config.precision)
    val, test = scorer.predict(VAL), scorer.predict(TEST)
    logits = test.predictions.logits / fit_temperature(val.predictions)
    return replace(test, predictions=Predictions(logits, test.predictions.labels))


def _in_order(found: list[SplitPredictions]) -> SplitPredictions:
    """Return the predictions of all folds in the order of the images."""
    positions = np.concatenate([each.positions for each in found])
    order, together = np.argsort(positions), joined([each.predictions for each in found])
    return SplitPredictions(TEST, positions[order], Predictions(together.logits[order], together.labels[order]))


def _keep_better(job: Job, dataset: Dataset, mean: State) -> Ensemble | None:
    """Give the model of the run the weights `mean`, if their calibrated validation loss is lower; return both.

    Returns None without validation images.

    Source: Wortsman et al., Model soups, arXiv:2203.05482.
    """
    if not len(dataset.index.positions(VAL)):
        note(NOT_COMPARED)
        return None
    own = copy.deepcopy(job.model.state_dict())
    alone = validate(job.model, dataset, job.config.precision)
    job.model.load_state_dict(mean)
    together = validate(job.model, dataset, job.config.precision)
    ensemble = Ensemble(alone.loss, together.loss)
    if not ensemble.is_better:
        job.model.load_state_dict(own)
    return ensemble
