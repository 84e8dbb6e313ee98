"""`--folds K`: the accuracy over all images, each tested once by what was trained without its fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from MLPipeline.console.Console import say
from MLPipeline.Evaluate import SplitPredictions
from MLPipeline.Features import Dataset
from MLPipeline.heads.Ensemble import Ensemble
from MLPipeline.report.Report import counted
from MLPipeline.steps.FoldHead import fit_fold_heads
from MLPipeline.steps.FoldTraining import train_folds
from MLPipeline.steps.Job import Job
from MLPipeline.training.Phases import folds_are_heads

_MAX_NAMED = 5  # classes with fewer folds


@dataclass(frozen=True)
class CrossValidation:
    """The predictions of the folds, in place of those for test images, and what is said of them."""

    tested: SplitPredictions
    figures: Mapping[str, Any]  # the entry `folds` of metrics.json


def cross_validate_run(job: Job, dataset: Dataset) -> CrossValidation | None:
    """Return the predictions of the folds; None without `--folds`.

    With `--ensemble`, this may change the weights of the model. Its head alone is averaged when it is fitted.
    """
    config, index = job.config, dataset.index
    if not config.folds:
        return None
    if folds_are_heads(config):
        tested, short, kind, ensemble = *fit_fold_heads(job, dataset), "head", None
    else:
        (tested, short, ensemble), kind = train_folds(job, dataset), "network"
    names = {index.classes[label]: number for label, number in short.items()}
    for line in fold_lines(config.folds, len(tested.positions), names, ensemble):
        say(line)
    figures = {"number": config.folds, "num_images": len(tested.positions), "classes_of_fewer_folds": names}
    return CrossValidation(tested, figures | {"of": kind, "ensemble": ensemble.to_plain() if ensemble else None})


def fold_lines(
    num_folds: int, num_images: int, short: Mapping[str, int], ensemble: Ensemble | None = None
) -> list[str]:
    """Return the lines for the console about the folds; `short` has the classes of fewer folds, with their numbers."""
    lines = [f"folds    {counted(num_images, 'image')} tested once each, in {num_folds} folds"]
    for name, number in list(short.items())[:_MAX_NAMED]:
        how = f"only {counted(number, 'fold')} test it" if number > 1 else "it is not tested, as it has nothing else"
        lines.append(f"         class {name} has too few images that are not copies: {how}")
    if len(short) > _MAX_NAMED:
        lines.append(f"         and {len(short) - _MAX_NAMED} more classes")
    if ensemble:
        lines.append(ensemble.to_line("the mean weights of the networks of all folds", "the network of the run"))
    return lines
