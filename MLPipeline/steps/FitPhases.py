"""The training itself: for each phase, the frozen stages once per image, then the epochs; saved as it goes."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterable
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
from MLPipeline.steps.FitHead import solved_epochs
from MLPipeline.steps.Job import Job
from MLPipeline.Train import fit
from MLPipeline.training.Phases import DEFAULT_VIEWS, TUNED_VIEWS, Phase, fit_into, is_solved, plan
from MLPipeline.training.Resume import Saver, Standing, load_standing, restore
from MLPipeline.training.TrainState import EpochRecord, TrainState

SECONDS_BETWEEN_SAVES = 15  # at least, between two saves of the best weights; they are also saved at the end
_PROBED_STEPS = 6  # training steps measured to estimate how long an epoch takes
_RESERVE = 0.1  # share of `--time` kept for evaluation and plots


def fit_phases(job: Job) -> Dataset:
    """Train the head, then, with `--unfreeze-after`, more layers; return the images as the last phase takes them.

    A run to resume continues in the phase in which it was stopped. The model then has the weights of the best epoch.
    """
    for phase in _remaining_phases(job):
        dataset = _store_features(job, phase)
        _fit_phase(job, dataset, phase)
    return dataset


def _remaining_phases(job: Job) -> list[Phase]:
    if job.config.resume:
        job.standing = load_standing(job.run.path, job.identity)
    return plan(job.config, find_model(job.config.model))[job.standing.phase if job.standing else 0 :]


def _store_features(job: Job, phase: Phase) -> Dataset:
    """Return the images with what the frozen stages give for each of them, cached or computed now."""
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
        job.row_keys,
        _stored_views(job, phase),
        config.cache_limit,
        job.preprocessing,
        job.quantization.pixels,
    )
    job.quantization.pixels.clear()  # gigabytes
    if job.model.quantized and dataset.rows.are_pixels:
        note("the cache has no room for the features: the frozen part runs in every epoch, and not in 8 bits")
        job.model.quantized = None
    dataset = replace(dataset, notes=job.inspection.notes(job.index))
    job.features_s = round(job.features_s + time.perf_counter() - started, 2)
    if not job.history:
        if not job.is_part:
            _show_inputs(job, dataset, config)
        if not (_is_notebook_style(config) or is_solved(config)):
            say(epoch_line(None))
    return dataset


def _show_inputs(job: Job, dataset: Dataset, config: Config) -> None:
    """Before the first epoch: report what was skipped, record the splits, and draw samples of the training images."""
    if skipped := dataset.skipped:
        say(f"skipped  {counted(len(skipped), 'file')}, listed in skipped.csv: {count_reasons(skipped)}")
    for line in oddity_lines(dataset.notes):
        note(line)
    shown = dataset.batches(TRAIN, config.batch_size, config.seed)
    if ranks.is_first:
        positions, augmentation = shown.positions[shown.order(1)], make_augmentation(job.config.augment)
        digests = job.inspection.prints["digest"]
        write_inputs(job.run.path, dataset, digests, job.preprocessing, positions, augmentation, config.seed)
        job.photos = order_photos(dataset.index, job.preprocessing.levels)


def _fit_phase(job: Job, dataset: Dataset, phase: Phase) -> None:
    """Train what the phase does not freeze through all its epochs, saving as it goes."""
    train, val = _batches(dataset, phase)
    # Where the cache has no room for the output of the frozen stages, they run in every epoch.
    part = job.model if dataset.rows.are_pixels else job.model.trainable_part()
    state = TrainState(part, phase.config, job.device, job.history)
    is_closed = is_solved(phase.config)
    if job.standing and job.standing.phase == phase.number and not is_closed:
        phase = _resume(job, job.standing, state, phase)
    elif job.config.time and (phase.number or phase.config.freeze != "backbone"):
        phase = _plan_within(job, phase, seconds_per_epoch(part, train, val, phase.config, job.device))
    job.history = state.history
    about = job.run.path, job.identity, phase.number, phase.config.epochs
    saver = Saver(*about, job.head, stop_signals.check, job.fitted)
    try:
        with stop_signals.deferred():
            if is_closed:
                epochs = solved_epochs(job, dataset, phase.config, state)
            else:
                epochs = fit(part, train, val, phase.config, job.device, progress, state, saver)
            _run_epochs(job, epochs, state, saver)
    except (KeyboardInterrupt, PipelineError):
        _save_best(job)
        raise
    _save(job)
    saver.save(state)
    if not phase.is_last:  # so that fine-tuning can be compared with the head alone
        job.head = predict_split(job.model, dataset, VAL, phase.config.precision).predictions


def _resume(job: Job, standing: Standing, state: TrainState, phase: Phase) -> Phase:
    """Load the state of an interrupted phase, and print its epochs; return the phase with its number of epochs."""
    if standing.state["model"].keys() != state.model.state_dict().keys():  # features were stored then, or are now
        what = f"--resume {job.run.path}: the cache has not the room it had when the run was stopped"
        raise UsageError(what, "Give the same --cache-limit, and the disk as much space")
    restore(job.run.path, standing, state)
    job.head, job.fitted, job.history = standing.head, standing.fitted, state.history
    for record in state.history:
        _print_epoch(job, record)
    return replace(phase, config=replace(phase.config, epochs=standing.num_epochs))


def _run_epochs(job: Job, epochs: Iterable[EpochRecord], state: TrainState, saver: Saver) -> None:
    """Print each epoch; save the best weights and the state every few seconds."""
    saved, saved_epoch = time.monotonic(), state.best_epoch
    for record in epochs:
        _print_epoch(job, record)
        is_due = ranks.from_first(time.monotonic() - saved > SECONDS_BETWEEN_SAVES)
        if saved_epoch != state.best_epoch and (is_due or _is_notebook_style(job.config)):
            with state.with_best_weights():
                _save(job)
            saved_epoch = state.best_epoch
        if is_due:
            saver.save(state)
            saved = time.monotonic()
    last, lowest = state.history[-1], min(state.history, key=lambda record: record.val_loss)
    if last.is_best and lowest.val_loss < last.val_loss and not job.is_part:
        why = f"that the loss of epoch {lowest.epoch} is lower may be chance"
        say(f"average  the weights at the end are kept, the average of the most epochs: {why}")


def _plan_within(job: Job, phase: Phase, seconds: float) -> Phase:
    """Return the phase with as many epochs, of `seconds` each, as fit into what is left of `--time`."""
    allowed = (job.config.time or 0) * 60 * (1 - _RESERVE)
    seconds, left = ranks.max(seconds), -ranks.max(time.perf_counter() - job.start - allowed)
    phase = fit_into(phase, left, seconds)
    number = counted(phase.config.epochs - phase.first_epoch, "epoch")
    say(f"time     an epoch takes about {seconds:.0f} s: {number} in the {max(0, left):.0f} s left")
    return phase


def _is_notebook_style(config: Config) -> bool:
    """Return whether epochs are printed as in the CIFAR-10 notebook that the recipe comes from."""
    return (config.recipe or "").startswith("cifar10")


def _print_epoch(job: Job, record: EpochRecord) -> None:
    """Print the figures of an epoch."""
    if not _is_notebook_style(job.config):
        say(epoch_line(record))
        return
    losses = f"Training Loss: {record.train_loss:.6f} \tValidation Loss: {record.val_loss:.6f}"
    say(f"Epoch: {record.epoch} \t{losses}".expandtabs())
    if record.is_best:
        before = min((other.val_loss for other in job.history if other.epoch < record.epoch), default=math.inf)
        say(f"Validation loss decreased ({before:.6f} --> {record.val_loss:.6f}).  Saving model...")


def _stored_views(job: Job, phase: Phase) -> Views:
    """Return the augmented views to store of each training image, where frozen stages run only once per image."""
    config, num_epochs = phase.config, phase.config.epochs - phase.first_epoch
    augmentation = make_augmentation(config.augment)
    if not augmentation or config.freeze == "none":
        return NO_VIEWS
    number = config.views or (min(TUNED_VIEWS, num_epochs) if phase.number else DEFAULT_VIEWS)
    if not job.is_part:
        used = "the head is fitted on all of them" if is_solved(config) else "each epoch uses the next one"
        say(f"views    {number} augmented views of each training image are stored; {used}")
    return Views(number, augmentation, config.seed)


def _batches(dataset: Dataset, phase: Phase) -> tuple[Batches, Batches]:
    config = phase.config
    augmentation = (make_augmentation(config.augment) or None) if dataset.rows.are_pixels else None  # else in the views
    is_balanced = config.balance == "sampler"
    train = dataset.batches(TRAIN, config.batch_size, config.seed, augmentation, is_balanced)
    return train, dataset.batches(VAL, config.batch_size)


def _save(job: Job) -> None:
    if not ranks.is_first or job.is_part:
        return
    save_checkpoint(job.run.model_file, job.model, job.card)
    write_history(job.run.path, job.history)


def _save_best(job: Job) -> None:
    """Save the best weights so far, which the model has again, of a training that was interrupted."""
    if job.is_part:  # the model of the run is trained and saved; `last.pt` has the state of the part
        return
    if job.history:
        _save(job)
        note(f"stopped: the best weights so far are in {job.run.model_file}")
    else:
        note("stopped before the first epoch was complete")


class _Measured(Exception):  # noqa: N818  not an error: leaves the training loop
    pass


def seconds_per_epoch(model: nn.Module, train: Batches, val: Batches, config: Config, device: torch.device) -> float:
    """Return how long an epoch will take, by a few steps of a copy of `model`; scoring costs a third of training."""
    ends = [time.perf_counter()]

    def after_step(state: TrainState) -> None:
        if state.batch < len(ends):  # called during validation
            return
        ends.append(time.perf_counter())
        if state.batch == _PROBED_STEPS:
            raise _Measured

    try:
        next(fit(copy.deepcopy(model), train, val, replace(config, epochs=1), device, after_step=after_step))
    except _Measured:
        pass
    steps = [end - start for start, end in itertools.pairwise(ends)]
    return min(steps) * (len(train) + len(val) * val.batch_size / train.batch_size / 3)
