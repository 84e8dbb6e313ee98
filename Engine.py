"""Trains, evaluates and uses image classifiers: the command line, and the only file that knows all others.

    python Engine.py --model resnet50               train on Data/, one folder per class
    python Engine.py predict cat.jpg photos/        use the newest run
    python Engine.py --help                         everything else

`train` reads top to bottom as the pipeline: folders, split, model, frozen part once per image, fit, evaluate, report.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Console import fail, log_to, note, open_console, progress, say
from MLPipeline.Config import DEFAULT_DATA, Config
from MLPipeline.Errors import PipelineError

if TYPE_CHECKING:  # the heavy imports happen in the verbs: --help must not wait for torch
    import torch

    from MLPipeline.Checkpoint import ModelCard
    from MLPipeline.Classifier import Classifier
    from MLPipeline.Features import Dataset
    from MLPipeline.files.RunFolder import Run
    from MLPipeline.Train import EpochRecord
    from MLPipeline.Weights import WeightsReport

SECONDS_BETWEEN_SAVES = 15  # best weights reach the disk at most this often, and at the end


class Terminated(KeyboardInterrupt):
    """SIGTERM: stop as for Ctrl-C, with another exit code."""


def main(argv: list[str]) -> int:
    """Return the exit code of a command line.

    0 ok, 1 our bug, 2 user or data, 3 environment, 4 diverged, 5 a gate missed, 130 Ctrl-C, 143 SIGTERM.
    """
    open_console()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if argv in ([], ["--version"]):
            from MLPipeline.commands.Overview import show_overview, show_versions

            show_versions() if argv else show_overview()
        else:
            verb, config = parse(argv)
            command_of(verb)(config)
        return 0
    except PipelineError as error:
        fail(str(error))
        return error.exit_code
    except KeyboardInterrupt as stop:
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # `| head` closed our output: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        traceback.print_exc()
        fail(f"{type(error).__name__}: {error}. This is a bug of ours: please report it with the lines above")
        return 1


def command_of(verb: str) -> Callable[[Config], None]:
    """Return the function that does what `verb` says; only what it needs is imported."""
    if verb == "evaluate":
        from MLPipeline.commands.EvaluateRun import evaluate_run

        return evaluate_run
    if verb == "predict":
        from MLPipeline.commands.PredictImages import predict_images

        return predict_images
    if verb == "runs":
        from MLPipeline.commands.ListRuns import list_all

        return list_all
    return train


def train(config: Config) -> None:
    """Train, evaluate and save a classifier: the main job."""
    start = time.perf_counter()  # before the imports: loading torch is part of the wait
    from MLPipeline.Checkpoint import ModelCard
    from MLPipeline.CreateDataset import split_images
    from MLPipeline.Device import choose_device
    from MLPipeline.Features import extract
    from MLPipeline.images.ImageWalk import count_reasons
    from MLPipeline.images.ScanFolders import TRAIN, scan_folders
    from MLPipeline.report.Report import counted, oddity_lines, summary_lines, write_inputs

    config = config.resolve({"data": DEFAULT_DATA})
    device = choose_device(config.device)
    index = scan_folders(config.data, config.follow_links)
    index = split_images(index, config.val_fraction, config.test_fraction, config.seed)
    model, config, weights = build(config, len(index.classes))
    run = open_run(config)
    for line in (f"run      {run.path}", *summary_lines(index, config, weights, device)):
        say(line)

    features_start = time.perf_counter()
    dataset = extract(
        model.to(device), index, config.image_size, config.output / "cache", config.precision, config.workers, progress
    )
    timing = {"features_s": _seconds_since(features_start)}
    if dataset.skipped:
        say(
            f"skipped  {counted(len(dataset.skipped), 'file')}, listed in skipped.csv: {count_reasons(dataset.skipped)}"
        )
    for line in oddity_lines(dataset.notes):
        note(line)
    train_batches = dataset.batches(TRAIN, config.batch_size, config.seed)
    write_inputs(run.path, dataset, config.image_size, train_batches.positions[train_batches.epoch(1).order])

    card = ModelCard(config.model, index.classes, config.image_size, asdict(weights))
    history = optimize(model, dataset, config, device, run, card)
    about = {"model": config.model, "weights": asdict(weights), "freeze": config.freeze}
    metrics = about | score(model, dataset, config, run, history)
    finish(config, run, metrics | {"timing": timing | {"total_s": _seconds_since(start)}})


def open_run(config: Config) -> Run:
    """Return a new run, whose folder holds its settings and its log from now on."""
    from MLPipeline.files.AtomicFile import write_text
    from MLPipeline.files.RunFolder import create_run

    run = create_run(config.output, config.name or config.model, config.data)
    log_to(run.path / "train.log")
    write_text(run.path / "config.json", config.to_json())
    return run


def build(config: Config, num_classes: int) -> tuple[Classifier, Config, WeightsReport]:
    """Return the model with its first weights, frozen as asked; the settings with the model's defaults filled in."""
    import torch

    from MLPipeline.Models import build_model, find_model
    from MLPipeline.Weights import load_weights

    spec, freeze_is_stated = find_model(config.model), config.freeze is not None
    config = config.resolve(spec.defaults)
    torch.manual_seed(config.seed % 2**63)
    model = build_model(config.model, num_classes, config.image_size)
    weights = load_weights(model, spec, config.weights)
    if weights.kind == "none" and config.freeze != "none":
        if freeze_is_stated:
            note(f"--freeze {config.freeze} keeps random weights: the head learns from features that mean nothing")
        else:
            config = replace(config, freeze="none")
    model.freeze(config.freeze)
    return model, config, weights


def optimize(
    model: Classifier, dataset: Dataset, config: Config, device: torch.device, run: Run, card: ModelCard
) -> list[EpochRecord]:
    """Fit the trainable part, telling and saving as it goes; `model` ends with the weights of its best epoch."""
    from MLPipeline.Checkpoint import save_checkpoint
    from MLPipeline.images.ScanFolders import TRAIN, VAL
    from MLPipeline.report.Report import epoch_line, write_history
    from MLPipeline.Train import fit

    history: list[EpochRecord] = []

    def save() -> None:
        best = max((record.epoch for record in history if record.is_best), default=0)
        save_checkpoint(run.model_file, model, replace(card, epoch=best))
        write_history(run.path, history)

    train_batches = dataset.batches(TRAIN, config.batch_size, config.seed)
    val_batches = dataset.batches(VAL, config.batch_size)
    saved = time.monotonic()
    say(epoch_line(None))
    epochs = fit(model.trainable_part(), train_batches, val_batches, config, device, progress)
    try:
        for record in epochs:
            history.append(record)
            say(epoch_line(record))
            if record.is_best and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                save()
                saved = time.monotonic()
    except (KeyboardInterrupt, PipelineError, BrokenPipeError):
        epochs.close()  # puts the best weights back
        if history:
            save()
        note(
            f"stopped: the best weights so far are in {run.model_file}" if history else "stopped before an epoch ended"
        )
        raise
    save()
    return history


def score(model: Classifier, dataset: Dataset, config: Config, run: Run, history: list[EpochRecord]) -> dict[str, Any]:
    """Return the metrics of the best weights on validation and test images; their tables and pictures are written."""
    from MLPipeline.images.ScanFolders import TEST, VAL
    from MLPipeline.Predict import predict_split
    from MLPipeline.report.Report import measure, write_results

    scored = [predict_split(model, dataset, split, config.precision) for split in (VAL, TEST)]
    metrics = measure(dataset.index, scored)
    write_results(run.path, dataset.index, scored, metrics, history, config.image_size)
    return metrics


def finish(config: Config, run: Run, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, which marks the run as finished, and say how good it is and how to go on."""
    from MLPipeline.files.RunFolder import record_run
    from MLPipeline.report.Report import closing_lines, write_json

    write_json(run.path / "metrics.json", metrics)
    record_run(config.output, run, metrics, metrics["timing"]["total_s"])
    say()
    for line in closing_lines(metrics):
        say(line)
    say(f"saved    {run.path}, after {metrics['timing']['total_s']:.0f} s in all")
    say(f"next     python Engine.py predict IMAGE_OR_FOLDER --run {shlex.quote(str(run.path))}")


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
