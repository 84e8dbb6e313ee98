"""The training of a run: phase after phase, told as it goes, saved so that nothing is lost when it is stopped."""

from __future__ import annotations

import copy
import itertools
import math
import time
from dataclasses import replace

import torch
from torch import nn

from MLPipeline.Augment import make_augmentation
from MLPipeline.Checkpoint import save_checkpoint
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, say
from MLPipeline.console.Signals import stop_signals
from MLPipeline.CreateDataset import Batches
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import PipelineError, UsageError
from MLPipeline.Evaluate import predict_split
from MLPipeline.Features import NO_VIEWS, Dataset, Views, extract
from MLPipeline.images.ImageWalk import count_reasons
from MLPipeline.images.ScanFolders import TRAIN, VAL
from MLPipeline.Models import find_model
from MLPipeline.report.Gallery import order_photos
from MLPipeline.report.Report import counted, epoch_line, oddity_lines, write_history, write_inputs
from MLPipeline.steps.Job import Job
from MLPipeline.Train import fit
from MLPipeline.training.Phases import Phase, fit_into, plan
from MLPipeline.training.Resume import Saver, Standing, load_standing
from MLPipeline.training.TrainState import EpochRecord, TrainState

SECONDS_BETWEEN_SAVES = 15  # best weights reach the disk at most this often, and at the end
DEFAULT_VIEWS = 5
_PROBED_STEPS = 6  # of an epoch, to tell how long it will take
_RESERVE = 0.1  # of the time that `--time` allows: for scoring and drawing


def fit_phases(job: Job) -> Dataset:
    """Train from where an interrupted run stood, or from the start; return the images as the last phase read them.

    The model ends with the weights of the best epoch of all phases.
    """
    standing = load_standing(job.run.path, job.identity) if job.config.resume else None
    dataset = None
    for number, phase in enumerate(plan(job.config, find_model(job.config.model))):
        if standing and number < standing.phase:
            continue
        goes_on = standing is not None and standing.phase == number
        if number and not goes_on:
            assert dataset is not None
            job.head = predict_split(job.model, dataset, VAL, phase.config.precision).predictions
        dataset = read_rows(job, phase)
        run_phase(job, dataset, phase, number, standing if goes_on else None)
    assert dataset is not None
    return dataset


def read_rows(job: Job, phase: Phase) -> Dataset:
    """Return what the frozen stages make of each image, computed once; say what is odd about the images."""
    config, started = phase.config, time.perf_counter()
    job.model.freeze(config.freeze)
    dataset = extract(
        job.model,
        job.index,
        config.image_size,
        config.output / "cache",
        config.precision,
        config.workers,
        progress,
        job.inspection.prints["digest"],
        _stored_views(config),
        config.cache_limit,
    )
    dataset = replace(dataset, notes=job.inspection.notes(job.index))
    job.features_s = round(job.features_s + time.perf_counter() - started, 2)
    if not job.history:
        if skipped := dataset.skipped:
            say(f"skipped  {counted(len(skipped), 'file')}, listed in skipped.csv: {count_reasons(skipped)}")
        for line in oddity_lines(dataset.notes):
            note(line)
        shown = dataset.batches(TRAIN, config.batch_size, config.seed)
        if ranks.is_first:
            positions, augmentation = shown.positions[shown.epoch(1).order], make_augmentation(job.config.augment)
            write_inputs(job.run.path, dataset, config.image_size, positions, augmentation, config.seed)
            job.photos = order_photos(dataset.index)
        if not _is_classic(config):
            say(epoch_line(None))
    return dataset


def run_phase(job: Job, dataset: Dataset, phase: Phase, number: int, standing: Standing | None) -> None:
    """Fit what the phase does not freeze; the model ends with the best weights so far."""
    train, val = _batches(dataset, phase)
    # Where the cache had no room for what the frozen stages give, they run in every epoch.
    part = job.model if dataset.rows.are_pixels else job.model.trainable_part()
    state = TrainState(part, phase.config, job.device, job.history)
    if standing:
        if standing.state["model"].keys() != part.state_dict().keys():  # features were stored then, or are now
            what = f"--resume {job.run.path}: the cache has not the room it had when the run was stopped"
            raise UsageError(what, "Give the same --cache-limit, and the disk as much space")
        state.load_state_dict(standing.state)
        phase = replace(phase, config=replace(phase.config, epochs=standing.num_epochs))
        job.head, job.history = standing.head, state.history
        for record in state.history:
            _tell(job, record)
    elif job.config.time and (number or phase.config.freeze != "backbone"):
        phase = _plan_within(job, phase, seconds_per_epoch(part, train, val, phase.config, job.device))
    job.history = state.history
    saver = Saver(job.run.path, job.identity, number, phase.config.epochs, job.head, stop_signals.check)
    saved, saved_epoch = time.monotonic(), state.best_epoch
    try:
        with stop_signals.deferred():
            for record in fit(part, train, val, phase.config, job.device, progress, state, saver):
                _tell(job, record)
                is_due = ranks.from_first(time.monotonic() - saved > SECONDS_BETWEEN_SAVES)
                if saved_epoch != state.best_epoch and (is_due or _is_classic(job.config)):
                    with state.showing_best():
                        _save(job)
                    saved_epoch = state.best_epoch
                if is_due:
                    saver.save(state)
                    saved = time.monotonic()
    except (KeyboardInterrupt, PipelineError, BrokenPipeError):
        _save_best(job)
        raise
    _save(job)
    saver.save(state)


def _plan_within(job: Job, phase: Phase, seconds: float) -> Phase:
    """Return the phase with as many epochs, of so many seconds each, as fit into what is left of `--time`."""
    allowed = (job.config.time or 0) * 60 * (1 - _RESERVE)
    seconds, left = ranks.max(seconds), -ranks.max(time.perf_counter() - job.start - allowed)
    phase = fit_into(phase, left, seconds)
    number = counted(phase.config.epochs - phase.first_epoch, "epoch")
    say(f"time     an epoch takes about {seconds:.0f} s: {number} in the {max(0, left):.0f} s left")
    return phase


def _is_classic(config: Config) -> bool:
    """Return whether epochs are told as in the CIFAR-10 notebook that the recipe comes from."""
    return (config.recipe or "").startswith("cifar10")


def _tell(job: Job, record: EpochRecord) -> None:
    """Print the results of an epoch."""
    if not _is_classic(job.config):
        say(epoch_line(record))
        return
    losses = f"Training Loss: {record.train_loss:.6f} \tValidation Loss: {record.val_loss:.6f}"
    say(f"Epoch: {record.epoch} \t{losses}".expandtabs())
    if record.is_best:
        before = min((other.val_loss for other in job.history if other.epoch < record.epoch), default=math.inf)
        say(f"Validation loss decreased ({before:.6f} --> {record.val_loss:.6f}).  Saving model...")


def _stored_views(config: Config) -> Views:
    """Return the views that are computed of each image where the frozen stages run only once."""
    augmentation = make_augmentation(config.augment)
    if not augmentation or config.freeze == "none":
        return NO_VIEWS
    number = config.views or DEFAULT_VIEWS
    say(f"views    {number} augmented views of each training image are stored; each epoch uses the next one")
    return Views(number, augmentation, config.seed)


def _batches(dataset: Dataset, phase: Phase) -> tuple[Batches, Batches]:
    config = phase.config
    augmentation = (make_augmentation(config.augment) or None) if dataset.rows.are_pixels else None  # else in the views
    is_balanced = config.balance == "sampler"
    train = dataset.batches(TRAIN, config.batch_size, config.seed, augmentation, is_balanced)
    return train, dataset.batches(VAL, config.batch_size)


def _save(job: Job) -> None:
    if not ranks.is_first:
        return
    save_checkpoint(job.run.model_file, job.model, job.card)
    write_history(job.run.path, job.history)


def _save_best(job: Job) -> None:
    """Save the best weights, which are back in the model, of a training that was stopped."""
    if job.history:
        _save(job)
        note(f"stopped: the best weights so far are in {job.run.model_file}")
    else:
        note("stopped before an epoch ended")


class _Measured(Exception):  # noqa: N818  no error: the way out of the training loop
    pass


def seconds_per_epoch(model: nn.Module, train: Batches, val: Batches, config: Config, device: torch.device) -> float:
    """Return how long an epoch will take, from a few steps on a copy of `model`; scoring counts a third of training."""
    ends = [time.perf_counter()]

    def keep(state: TrainState) -> None:
        if state.batch < len(ends):  # called while scoring
            return
        ends.append(time.perf_counter())
        if state.batch == _PROBED_STEPS:
            raise _Measured

    try:
        next(fit(copy.deepcopy(model), train, val, replace(config, epochs=1), device, keep=keep))
    except _Measured:
        pass
    steps = [end - start for start, end in itertools.pairwise(ends)]
    return min(steps) * (len(train) + len(val) * val.batch_size / train.batch_size / 3)
