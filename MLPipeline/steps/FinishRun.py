"""The end of a run: calibrated, evaluated, drawn, reported and recorded."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from MLPipeline.advice.Suggestions import suggestion_lines
from MLPipeline.Checkpoint import save_checkpoint
from MLPipeline.choosing.Choice import read_choice
from MLPipeline.console.Console import say
from MLPipeline.Device import threads
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import PipelineError, UsageError
from MLPipeline.Evaluate import SplitPredictions, calibrate_and_score
from MLPipeline.Features import Dataset
from MLPipeline.files.RunsTable import record_run
from MLPipeline.heads.CrossValidate import widened
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.ModelCard import write_model_card
from MLPipeline.report.Report import closing_lines, draw_history, measure, stored_metrics, write_json, write_results
from MLPipeline.report.RunPage import ReportContent, prepare_report, write_report
from MLPipeline.scoring.Calibrate import calibrated
from MLPipeline.scoring.Explain import explain_images
from MLPipeline.scoring.Intervals import paired_interval
from MLPipeline.scoring.Predictions import worst_mistakes
from MLPipeline.steps.Advise import advise, stored_suggestions
from MLPipeline.steps.CrossValidateRun import CrossValidation
from MLPipeline.steps.Job import Job
from MLPipeline.steps.MirrorViews import measure_mirror, mirror_line
from MLPipeline.steps.PartOfRun import remove_parts
from MLPipeline.steps.ShiftInFp32 import measure_shift
from MLPipeline.training.Phases import head_epochs

# Of predictions of folds, whose logits are calibrated by each fold with a temperature of its own.
_NO_TEMPERATURE = {"temperature": None, "ece_unscaled": None}
MAX_HEAT_MAPS = 24  # of the worst mistakes, the first rows of the gallery; each requires a forward and a backward pass


def finish_run(job: Job, dataset: Dataset, folds: CrossValidation | None) -> None:
    """Evaluate the best weights on the validation and test images; save, draw and report the results.

    The predictions of `folds` take the place of those for test images.

    `metrics.json` is written last and marks the run as finished.
    """
    config = job.config
    if ranks.is_first:
        draw_history(job.run.path, job.history)  # while the best weights are evaluated
    card, scored = calibrate_and_score(job.model, dataset, job.card, config.precision, config.target_precision)
    card, tta = measure_mirror(job, dataset, card, scored[0])
    scored = [*scored[:-1], folds.tested] if folds else scored
    ranks.leave()  # the rest is done by rank 0 alone
    if not ranks.is_first:
        return
    measure_shift(job, dataset, card.temperature)
    save_checkpoint(job.run.model_file, job.model, card)
    metrics = {"temperature": card.temperature, "tta": tta} | _measure(
        job, dataset, scored, folds.figures if folds else None
    )
    write_results(job.run.path, dataset.index, scored, metrics, dataset.image_size, job.preprocessing)
    _say_result(job, metrics)  # the model and its predictions are saved; pictures and page take seconds
    metrics |= _advise(job, dataset, metrics)
    content = _content(job, dataset, scored, metrics)
    page = prepare_report(job.run.path, content)
    drawing.finish()
    # All but a few files of text is done: the total is the time of the whole command, to within tenths of a second.
    total_s = round(time.perf_counter() - job.start, 2)
    timing = {"features_s": round(job.inspection.seconds + job.features_s, 2), "total_s": total_s}
    page.write(timing)
    write_model_card(job.run.path, content)
    record_run(config.output, job.run, metrics, total_s)
    write_json(job.run.path / "metrics.json", stored_metrics(metrics) | {"timing": timing})
    remove_parts(job.run)
    say(f"saved    {job.run.path}, total time {total_s:.0f} s; open report.html there")
    say(f"next     python Engine.py predict IMAGE_OR_FOLDER --run {shlex.quote(str(job.run.path))}")


def _content(
    job: Job, dataset: Dataset, scored: Sequence[SplitPredictions], metrics: Mapping[str, Any]
) -> ReportContent:
    """Return what the page and the model card of a finished run show, heat maps and photographs included."""
    heat_maps = _heat_maps(job, dataset, scored)
    return ReportContent(
        job.config,
        job.weights,
        dataset.index,
        job.inspection.notes(job.index),
        job.history,
        scored,
        metrics,
        gaps=job.index.gaps,
        heat_maps=heat_maps,
        photos=job.photos.result() if job.photos else {},
        preprocessing=job.preprocessing,
    )


def _measure(
    job: Job, dataset: Dataset, scored: Sequence[SplitPredictions], folds: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the metrics of the run, except for the temperature and the times."""
    config = job.config
    about = {"model": config.model, "weights": asdict(job.weights), "freeze": config.freeze}
    metrics = about | measure(dataset.index, scored) | {"folds": folds}
    metrics |= {"head": job.fitted or {"setting": config.head}}
    if folds:
        metrics["test"] = widened(metrics["test"], folds["number"]) | _NO_TEMPERATURE
    metrics |= {"fine_tuning": _fine_tuning(job, scored), "precision": _precision(job)}
    metrics |= {"image_size": dataset.image_size, "sizes": job.sizes, "repeats": job.repeats}
    return metrics | {"choice": read_choice(job.run.path)}


def _precision(job: Job) -> dict[str, Any]:
    """Return the setting of `--precision`, and what came of 8 bits; None where they were no question."""
    network = job.model.quantized
    shift = asdict(network.shift) if network and network.shift else None
    int8 = {"is_used": network is not None, **job.quantization.figures, "shift": shift}
    return {"setting": job.config.precision, "int8": int8 if job.quantization.figures else None}


@contextlib.contextmanager
def reported_if_stopped(job: Job) -> Iterator[None]:
    """Write a report of what exists so far if the run is stopped, or fails, inside the block."""
    try:
        yield
    except (KeyboardInterrupt, PipelineError) as stop:
        if ranks.is_first and job.history:
            reason = _reason(stop)
            notes = job.inspection.notes(job.index)
            content = ReportContent(job.config, job.weights, job.index, notes, job.history, interrupted=reason)
            content = replace(content, preprocessing=job.preprocessing)
            with contextlib.suppress(PipelineError):  # the disk may be full: the first error is the one to report
                write_report(job.run.path, content)
        raise


def _reason(stop: BaseException) -> str:
    if not isinstance(stop, KeyboardInterrupt):
        return str(stop).rstrip(".")
    return "stopped by hand" if str(stop) in ("", "SIGINT") else f"stopped by {stop}"


def _heat_maps(job: Job, dataset: Dataset, scored: Sequence[SplitPredictions]) -> dict[int, np.ndarray]:
    """Return pictures of the worst mistakes with heat maps, by position; none if the model has no spatial features."""
    evaluated = next((each for each in reversed(scored) if len(each.positions)), None)
    if evaluated is None:
        return {}
    worst = worst_mistakes(evaluated.predictions, MAX_HEAT_MAPS)
    # One core is left to the drawing process: each operation waits for its slowest thread.
    with contextlib.suppress(UsageError), threads(max(1, torch.get_num_threads() - 1)):
        positions, config = evaluated.positions[worst], job.config
        how = job.preprocessing
        return explain_images(job.model, dataset.index, positions, dataset.image_size, config.precision, how)
    return {}


def _fine_tuning(job: Job, scored: Sequence[SplitPredictions]) -> dict[str, Any] | None:
    """Return how fine-tuning compares with the head alone, on validation images; None without fine-tuning.

    The weights of the lower calibrated validation loss are kept, as between epochs. `accuracy` is of those kept, at the
    size at which the model is used; `tuned_loss` and `tuned_accuracy` of the epoch of fine-tuning that is kept or best.
    """
    after = next((each.predictions for each in scored if each.split == VAL), None)  # at the temperature of the run
    tuned = [record for record in job.history if record.epoch > head_epochs(job.config)]
    if job.head is None or after is None or not len(after.labels) or not tuned:
        return None
    was_right, is_right = (each.predicted == each.labels for each in (job.head, after))
    both, lost, won = (int(each.sum()) for each in (was_right & is_right, was_right & ~is_right, ~was_right & is_right))
    kept = [record for record in tuned if record.is_best]
    best = kept[-1] if kept else min(tuned, key=lambda record: record.val_loss)
    return {
        "kept": "fine-tuned" if any(record.is_best for record in tuned) else "head",
        "criterion": "validation loss at the best temperature",
        "head_loss": calibrated(job.head).loss,
        "head_accuracy": job.head.accuracy,
        "tuned_loss": best.val_loss,
        "tuned_accuracy": best.val_accuracy,
        "accuracy": after.accuracy,
        "difference_ci95": list(paired_interval(both, lost, won, len(after.labels) - both - lost - won)),
    }


def fine_tuning_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the lines that say which weights are kept, by which figure, and how accurate both are."""
    head = f"{found['head_loss']:.4f}", f"{100 * found['head_accuracy']:.1f} %"
    tuned = f"{found['tuned_loss']:.4f}", f"{100 * found['tuned_accuracy']:.1f} %"
    if found["kept"] == "head":
        return [
            f"tuned    kept the head alone, for its lower validation loss: {head[0]} (fine-tuned: {tuned[0]})",
            f"         validation accuracy {head[1]} (fine-tuned: {tuned[1]})",
        ]
    low, high = (100 * bound for bound in found["difference_ci95"])
    gain = 100 * (found["accuracy"] - found["head_accuracy"])
    return [
        f"tuned    kept the fine-tuned weights, for their lower validation loss: {tuned[0]} (head alone: {head[0]})",
        f"         validation accuracy {100 * found['accuracy']:.1f} % (head alone: {head[1]}; difference {gain:+.1f} "
        f"points, 95 % interval {low:+.1f} to {high:+.1f})",
    ]


def _say_result(job: Job, metrics: Mapping[str, Any]) -> None:
    say()
    if found := metrics["fine_tuning"]:
        for line in fine_tuning_lines(found):
            say(line)
    for line in closing_lines(metrics, job.index.gaps):
        say(line)
    if metrics["tta"]:
        say(mirror_line(metrics["tta"]))


def _advise(job: Job, dataset: Dataset, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Print what to do next, and return it as the entries of metrics.json."""
    found = advise(job, dataset, metrics)
    for line in suggestion_lines(stored_suggestions(found)):
        say(line)
    return found
