"""`--repeats N`: the training with other seeds, and the mean of the weights where that validates better."""

from __future__ import annotations

import copy
from functools import partial

from MLPipeline.console.Console import note, say
from MLPipeline.Errors import DivergedError
from MLPipeline.Evaluate import validate
from MLPipeline.Features import Dataset
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.report.Page import duration
from MLPipeline.steps.FitPhases import fit_phases
from MLPipeline.steps.Job import Job
from MLPipeline.steps.PartOfRun import part_of
from MLPipeline.training.Soup import Soup, State

_STEP = 1_000_003  # between seeds: runs of neighbouring seeds share none of their repeats


def repeat_training(job: Job, dataset: Dataset) -> None:
    """Train again with other seeds; give the model the mean weights of those that lower the validation loss.

    The loss is that at the best temperature, as between epochs. `job.repeats` says what came of it. A repetition whose
    loss is not finite ends them: the network of the run is there already.

    Raises:
        ResourceError: the folder of a repetition cannot be written.
    """
    number = job.config.repeats
    if number == 1:
        return
    if not len(dataset.index.positions(VAL)):
        note("--repeats: there are no validation images to compare an average with, so the training is not repeated")
        return
    seconds = duration(sum(record.seconds for record in job.history))
    say(f"repeats  the training is repeated, about {seconds} each time")
    soup = Soup(_state(job), _loss(job, dataset))
    losses = [soup.loss]
    for repeat in range(2, number + 1):
        part = part_of(job, f"repeat-{repeat}", job.index, (job.config.seed + (repeat - 1) * _STEP) % 2**64)
        try:
            fit_phases(part)
        except DivergedError as error:
            note(f"--repeats: training {repeat} is left out, and none follows: {error.what}")
            break
        loss_of = partial(_loss_with, job, dataset)
        losses.append(loss_of(_state(part)))
        tried = soup.added(repeat, _state(part), loss_of)
        say(_line(repeat, number, losses[-1], tried, soup))
        soup = tried if tried.loss < soup.loss else soup
    job.model.load_state_dict(soup.weights)
    if len(losses) > 1:
        job.repeats = {"number": len(losses), "losses": losses, "averaged": list(soup.members), "loss": soup.loss}


def _state(job: Job) -> State:
    return copy.deepcopy(job.model.state_dict())


def _loss_with(job: Job, dataset: Dataset, weights: State) -> float:
    job.model.load_state_dict(weights)
    return _loss(job, dataset)


def _loss(job: Job, dataset: Dataset) -> float:
    return validate(job.model, dataset, job.config.precision).loss


def _line(repeat: int, number: int, loss: float, tried: Soup, before: Soup) -> str:
    """Return the line for the console about a repetition, and what its weights add to the mean."""
    kept = "kept" if tried.loss < before.loss else "not kept"
    return (
        f"repeat   {repeat} of {number}: validation loss {loss:.4f}; averaged with it {tried.loss:.4f} "
        f"({kept}: {before.loss:.4f} without it)"
    )
