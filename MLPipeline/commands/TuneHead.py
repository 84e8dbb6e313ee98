"""`python Engine.py tune`: searches for better settings of a head on stored features, and prints the command for them.

The features are computed once; a trial takes about a second. Test images are excluded beforehand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from MLPipeline.commands.TrainingCommand import training_command as shared_command
from MLPipeline.Config import Config
from MLPipeline.console.Console import progress, say
from MLPipeline.console.Signals import stop_signals
from MLPipeline.Device import choose_device
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.Features import extract
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.RunFolder import Run, lock_run
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex
from MLPipeline.Models import find_model, find_trainable
from MLPipeline.report.TunePlot import plot_tune
from MLPipeline.steps.Prepare import build, inspect, list_images, preprocessing_of, split, with_data
from MLPipeline.training.TrainState import TrainState
from MLPipeline.tuning.SolvedHeads import SolvedHead, solved_heads
from MLPipeline.tuning.Tune import Problem, Search, Trial, in_memory

ON_FEATURES: Mapping[str, Any] = {
    "freeze": "backbone",
    "augment": "none",
}  # so that all trials use the same row of each image
_SUGGESTED = "Use --model efficientnet_lite0, whose weights need no network"
_NUM_SHOWN = 10
_MIN_FOR_IMPORTANCES = 20  # complete trials


class _TimeIsOver(Exception):  # noqa: N818  not an error: it ends a trial
    pass


def run(config: Config) -> None:
    """Print the ten best trials and the command that trains with the best; write trials.csv and tune.png.

    Raises:
        UsageError: the model is trained from scratch, or there are no validation images.
        ResourceError: Optuna or the weights are missing, or the output cannot be written.
    """
    if find_model(config.model).pretrained is None or config.weights == "none":
        what = f"--model {config.model}: trains all layers from scratch, so there are no features to store"
        raise UsageError(what, _SUGGESTED)
    problem, resolved, folder = _prepare(config)
    with lock_run(Run(folder, 0, folder.name)):
        search = Search(problem, resolved, folder)
        heads = solved_heads(problem, resolved.seed)
        _introduce(search, heads, config.minutes)
        try:
            with stop_signals.deferred():
                seconds = _by_the_second(_trials(search, 60 * config.minutes))
                for _ in progress(seconds, "tuning, seconds", round(60 * config.minutes)):
                    pass
        except KeyboardInterrupt:
            _report(search, heads, config, folder)
            raise
        _report(search, heads, config, folder)


def _prepare(config: Config) -> tuple[Problem, Config, Path]:
    """Return the problem, the model's own settings, and the folder for the trials on exactly this problem."""
    config = with_data(config)
    index = list_images(config)
    device = choose_device(config.device)
    on_features = replace(config, **ON_FEATURES, head="linear")  # as the trials are trained, by gradient descent
    model, resolved, weights = build(on_features, len(index.classes), device)
    if weights.kind == "none":
        raise ResourceError(f"--model {config.model}: {weights.note}", _SUGGESTED)
    inspection, _ = inspect(index, model, resolved)
    index = split(index, inspection, resolved)
    num_test = len(index.positions(TEST))
    index = replace(index, splits=np.where(index.splits == TEST, UNSPLIT, index.splits))
    if not len(index.positions(VAL)):
        raise UsageError("--val-fraction: there are no validation images", "Give a value above 0, such as 0.15")
    preprocessing = preprocessing_of(resolved, index, inspection)
    digests = inspection.row_keys(preprocessing.levels)
    dataset = extract(
        model,
        index,
        resolved.image_size,
        config.output / "cache",
        config.precision,
        config.workers,
        progress,
        digests,
        cache_limit=resolved.cache_limit,
        preprocessing=preprocessing,
    )
    if dataset.rows.are_pixels:
        raise ResourceError(f"--cache-limit {resolved.cache_limit:g}: no room for the features", "Give a larger limit")
    index = dataset.index
    counts = [len(index.positions(each)) for each in (TRAIN, VAL)]
    say(f"model    {config.model}, weights: {weights.kind}; only the head is trained, on stored features")
    say(f"images   {counts[0]:,} training, {counts[1]:,} validation; {num_test:,} test images are not used")
    problem = Problem(model.head, in_memory(dataset.rows, index, device), index, device)
    folder = config.output / "tune" / f"{config.model}-{_key(index, digests, resolved, weights.sha256)}"
    _make_folder(folder)
    return problem, resolved, folder


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _key(index: ImageIndex, digests: np.ndarray, config: Config, weights: str) -> str:
    """Return a hash of everything that a trial depends on besides its settings."""
    chosen = np.flatnonzero(index.splits >= 0)
    state = hashlib.blake2b(digest_size=4)
    for array in (digests, index.labels, index.splits):
        state.update(np.ascontiguousarray(array[chosen]).tobytes())
    names = [each.name for each in dataclasses.fields(Config) if each.metadata["group"] == "training"]
    settings = {name: getattr(config, name) for name in ("image_size", "fit", "precision", *names) if name != "minutes"}
    state.update(f"{index.classes} {weights} {settings}".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _introduce(search: Search, heads: list[SolvedHead], minutes: float) -> None:
    if search.num_known:
        say(f"resumed  {search.num_known:,} trials from earlier searches")
    for title, head in zip(("heads   ", *[" " * 8] * len(heads)), heads, strict=False):
        say(f"{title} {head.to_text()}")
    say(f"tune     for {minutes:g} minutes; each trial better than all before:")
    say()
    say(_row(None))
    if search.best:
        say(_row(search.best))


def _trials(search: Search, duration_s: float) -> Iterator[None]:
    """Run trials until the time is over, at least one; print each that is better than all before."""
    end = time.monotonic() + duration_s

    def after_step(state: TrainState) -> None:
        stop_signals.check()
        if search.best and time.monotonic() > end:
            raise _TimeIsOver

    while not search.best or time.monotonic() < end:
        try:
            before, trial = search.best, search.next_trial(after_step)
        except _TimeIsOver:
            return
        if search.best is not before:
            say(_row(trial))
        yield


def _by_the_second(items: Iterator[None]) -> Iterator[None]:
    """Consume `items`; yield once for every second that has passed."""
    start, num_told = time.monotonic(), 0
    for _ in items:
        while num_told < int(time.monotonic() - start):
            num_told += 1
            yield


def _report(search: Search, heads: list[SolvedHead], config: Config, folder: Path) -> None:
    """Print the results and write them to `folder`."""
    best, complete = (
        search.best,
        sorted((trial for trial in search.trials if not trial.is_pruned), key=lambda trial: trial.val_loss),
    )
    if best is None:
        say("no trial was completed")
        return
    say()
    num_new = len(search.trials) - search.num_known
    say(f"trials   {num_new:,} in this search, {len(search.trials):,} in total, {len(complete):,} complete")
    say()
    say(_row(None))
    for trial in complete[:_NUM_SHOWN]:
        say(_row(trial))
    own = search.trials[0]
    say()
    say(f"default  {own.val_loss:.4f}, {100 * own.val_accuracy:.1f} %: trial 1 has the model's own settings")
    if len(complete) >= _MIN_FOR_IMPORTANCES:
        shares = [f"{name.replace('_', ' ')} {100 * share:.0f} %" for name, share in search.importances().items()]
        say(f"matters  {', '.join(shares)}")
    write_csv(trials_table(search.trials), folder / "trials.csv")
    plot_tune(search.trials, folder / "tune.png")
    say(f"chosen   by validation loss, which is optimistic for the best of {len(search.trials):,} trials")
    say(f"saved    {folder}: trials.csv, tune.png; the same command continues from there")
    settings = best.settings
    if heads[0].val_loss < best.val_loss:
        say(f"better   --head {heads[0].kind}, which has no settings to search: {heads[0].val_loss:.4f}")
        settings = {"head": heads[0].kind}
    say(f"next     {training_command(config, settings)}")


def _row(trial: Trial | None) -> str:
    """Return the table row of a trial; the header for None."""
    if trial is None:
        return " trial  val loss  val acc  epoch        lr  optimizer  batch  decay  smoothing  dropout  hidden"
    has = trial.settings
    return (
        f"{trial.number:6,}  {trial.val_loss:8.4f}  {100 * trial.val_accuracy:5.1f} %  {trial.epoch:5}  {has['lr']:8g}"
        f"  {has['optimizer']:9}  {has['batch_size']:5}  {has['weight_decay']:5g}  {has['label_smoothing']:9g}"
        f"  {has['dropout']:7g}  {has['hidden'] or '-':>6}"
    )


def trials_table(trials: list[Trial]) -> pd.DataFrame:
    """Return one row per trial, in the order in which they ran, with a column for each setting."""
    rows = [dataclasses.asdict(trial) | dict(trial.settings) for trial in trials]
    return pd.DataFrame(rows).drop(columns="settings").rename(columns={"number": "trial"})


def training_command(config: Config, settings: Mapping[str, Any]) -> str:
    """Return the command that trains with the settings of a trial, on the images that `config` states."""
    defaults = find_trainable(config.model).defaults
    usual = {name: defaults.get(name) for name in ON_FEATURES} | {
        "augment": defaults.get("augment", "none"),
        "hidden": 0,
    }
    return shared_command("tune", config, {**ON_FEATURES, **settings}, usual)
