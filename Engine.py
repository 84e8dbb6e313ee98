"""Trains, evaluates and uses image classifiers: the command line and the main job.

    python Engine.py --model resnet50               train on Data/, one folder per class
    python Engine.py predict cat.jpg photos/        predict with the newest run
    python Engine.py --help                         show everything else

`train` lists the steps of a run in order; each is a function in `MLPipeline/steps/`.
"""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from MLPipeline.commands.Main import run_command
from MLPipeline.commands.Verbs import Command, Verb
from MLPipeline.Config import Config
from MLPipeline.console.Clock import clock, start_of_process
from MLPipeline.console.Console import log_to, note, say
from MLPipeline.console.Signals import stop_signals
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from MLPipeline.report.Drawing import drawing

if TYPE_CHECKING:  # slow imports are inside the functions: --help must not wait for torch
    from MLPipeline.files.RunFolder import Run


def main(argv: list[str], start: float | None = None) -> int:
    """Run a command line (without the program name) and return its exit code.

    `start` is the time at which the command began, from `time.perf_counter`; by default, now.
    """
    clock.start = time.perf_counter() if start is None else start
    return run_command(argv, command_of)


def command_of(verb: Verb) -> Command:
    """Return the function that runs a verb: `train` below, or the `run` of a file in `commands/`."""
    return verb.command() if verb.module else train


def train(config: Config) -> None:
    """Train, evaluate and save a classifier."""
    config = continue_launched(config)
    if is_complete(config):
        return
    if ranks.is_first:
        drawing.begin()  # the drawing process imports matplotlib in the meantime
    from MLPipeline.Device import join_ranks
    from MLPipeline.steps.CheckMirrors import check_mirrors
    from MLPipeline.steps.ChooseFirst import choose_first, keep_choice
    from MLPipeline.steps.ChooseSize import choose_size
    from MLPipeline.steps.CrossValidateRun import cross_validate_run
    from MLPipeline.steps.FinishRun import finish_run, reported_if_stopped
    from MLPipeline.steps.FitPhases import fit_phases
    from MLPipeline.steps.Job import Job, introduce
    from MLPipeline.steps.Prepare import build, inspect, list_images, split, with_data
    from MLPipeline.steps.Quantize import quantize_frozen
    from MLPipeline.steps.RepeatTraining import repeat_training
    from MLPipeline.steps.ShowRates import show_rates

    device = join_ranks(config.device)
    config, choice = choose_first(with_data(config))  # with `--model auto`, which backbone suits these images best
    index = list_images(config)  # the files and their classes; no file is opened yet
    augment_is_stated = config.augment is not None
    model, config, weights = build(config, len(index.classes), device)  # the network with its initial weights
    inspection, pixels = inspect(index, model, config)  # each new file, read once: readable? a copy? its features
    index = split(index, inspection, config)  # train, val, test; copies stay in one split
    if config.find_lr:
        return show_rates(model, config, index, inspection, device)
    config, remarks, exchange = check_mirrors(config, index, inspection, model, augment_is_stated)
    quantization = quantize_frozen(config, index, inspection, model, pixels)  # where that pays off
    with open_run(config) as run:
        job = Job(run, config, index, inspection, model, weights, device, clock.start, quantization, exchange=exchange)
        introduce(job, [*keep_choice(choice, run, config), *remarks])
        with reported_if_stopped(job):
            dataset = fit_phases(job)  # the head; then, with --unfreeze-after, more layers
            repeat_training(job, dataset)  # with --repeats: other seeds, and the mean of the weights
            folds = cross_validate_run(job, dataset)  # with --folds
            dataset = choose_size(job, dataset)  # after fine-tuning on crops, a larger size may validate better
        finish_run(job, dataset, folds)  # evaluate, calibrate, save, draw, report


def continue_launched(config: Config) -> Config:
    """Return the settings; if torchrun has restarted this command, they resume the run that it started before."""
    from MLPipeline.files.RunFolder import find_launched

    if not ranks.restarts or config.resume or not (run := find_launched(config.output, ranks.launch)):
        return config
    return replace(config, resume=str(run.path))


def is_complete(config: Config) -> bool:
    """Return whether the run to resume is already complete; if so, print that."""
    from MLPipeline.files.RunFolder import find_run

    if not config.resume or not (run := find_run(config.output, config.resume, needs_model=False)).metrics:
        return False
    say(f"{run.path} is already complete: python Engine.py predict IMAGE_OR_FOLDER --run {shlex.quote(str(run.path))}")
    return True


@contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """Yield a new run, or the run to resume, locked by this process; its folder contains its settings and its log."""
    from MLPipeline.files.AtomicFile import remove_half_written, write_text
    from MLPipeline.files.RunFolder import LAUNCH_FILE, Run, create_run, find_run, lock_run

    if not ranks.is_first:
        yield ranks.from_first(Run(config.output, 0, ""))
        return
    if config.resume:
        run = find_run(config.output, config.resume, needs_model=False)
    else:
        run = create_run(config.output, config.name or config.model, config.data)
    hint = f"to resume: python Engine.py --resume {shlex.quote(str(run.path))}"
    with lock_run(run), stop_signals.last_act(lambda: note(hint)):
        log_to(run.path / "train.log")
        if config.resume:
            remove_half_written(run.path)
        else:
            write_text(run.path / "config.json", config.to_json())
            if ranks.launch:
                write_text(run.path / LAUNCH_FILE, ranks.launch)
        try:
            yield ranks.from_first(run)
        except (KeyboardInterrupt, ResourceError):
            note(hint)
            raise


if __name__ == "__main__":
    # Imports create a million permanent objects; garbage collection among them, then and at exit, took two seconds.
    gc.set_threshold(10_000)
    exit_code = main(sys.argv[1:], start_of_process())
    gc.freeze()
    sys.exit(exit_code)
