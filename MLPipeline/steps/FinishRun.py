"""The end of a run: scored, its answers made honest, drawn, reported, recorded."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from MLPipeline.Checkpoint import save_checkpoint
from MLPipeline.console.Console import say
from MLPipeline.Device import threads
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import PipelineError, UsageError
from MLPipeline.Evaluate import SplitPredictions, judge
from MLPipeline.Features import Dataset
from MLPipeline.files.RunFolder import record_run
from MLPipeline.images.ScanFolders import VAL
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.Report import closing_lines, measure, write_json, write_results
from MLPipeline.report.RunPage import ReportContent, write_report
from MLPipeline.scoring.Explain import explain_images
from MLPipeline.scoring.Intervals import paired_interval
from MLPipeline.scoring.Predictions import Predictions, worst_mistakes
from MLPipeline.steps.Job import Job

MAX_HEAT_MAPS = 24  # of the worst mistakes: the first rows of the gallery; each costs a forward pass


def finish_run(job: Job, dataset: Dataset) -> None:
    """Score the best weights on validation and test images; save, draw, report and say how good they are.

    `metrics.json` comes last and marks the run as finished.
    """
    config = job.config
    card, scored = judge(job.model, dataset, job.card, config.precision, config.target_precision)
    ranks.leave()  # what follows is for rank 0 alone
    if not ranks.is_first:
        return
    save_checkpoint(job.run.model_file, job.model, card)
    about = {"model": config.model, "weights": asdict(job.weights), "freeze": config.freeze}
    metrics = about | {"temperature": card.temperature} | measure(dataset.index, scored)
    metrics |= {"fine_tuning": _fine_tuning(job, scored)}
    write_results(job.run.path, dataset.index, scored, metrics, job.history, dataset.image_size, job.preprocessing)
    heat_maps = _heat_maps(job, dataset, scored)
    total_s = round(time.perf_counter() - job.start, 2)
    timing = {"features_s": round(job.inspection.seconds + job.features_s, 2), "total_s": total_s}
    notes = job.inspection.notes(job.index)
    content = ReportContent(config, job.weights, dataset.index, notes, job.history, scored, metrics, timing)
    photos = job.photos.result() if job.photos else {}
    write_report(job.run.path, replace(content, heat_maps=heat_maps, photos=photos, preprocessing=job.preprocessing))
    drawing.finish()
    record_run(config.output, job.run, metrics, total_s)
    write_json(job.run.path / "metrics.json", metrics | {"timing": timing})
    _say_all(job, metrics, total_s)


@contextlib.contextmanager
def reported_if_stopped(job: Job) -> Iterator[None]:
    """Leave a report of what there is if the run is stopped, or fails, inside the block."""
    try:
        yield
    except (KeyboardInterrupt, PipelineError) as stop:
        if ranks.is_first and job.history:
            reason = "stopped by hand" if isinstance(stop, KeyboardInterrupt) else str(stop).rstrip(".")
            notes = job.inspection.notes(job.index)
            content = ReportContent(job.config, job.weights, job.index, notes, job.history, interrupted=reason)
            content = replace(content, preprocessing=job.preprocessing)
            with contextlib.suppress(PipelineError):  # the disk may be full: what stopped the run is to be said
                write_report(job.run.path, content)
        raise


def _heat_maps(job: Job, dataset: Dataset, scored: Sequence[SplitPredictions]) -> dict[int, np.ndarray]:
    """Return pictures of what the worst mistakes rest on, by position; none where the model has no map to draw from."""
    judged = next((each for each in reversed(scored) if len(each.positions)), None)
    if judged is None:
        return {}
    worst = worst_mistakes(judged.predictions, MAX_HEAT_MAPS)
    # A core is left to the process that draws: each operation waits for its slowest thread.
    with contextlib.suppress(UsageError), threads(max(1, torch.get_num_threads() - 1)):
        positions, config = judged.positions[worst], job.config
        how = job.preprocessing
        return explain_images(job.model, dataset.index, positions, config.image_size, config.precision, how)
    return {}


def _fine_tuning(job: Job, scored: Sequence[SplitPredictions]) -> dict[str, Any] | None:
    """Return how the best weights compare with the best head on validation images; None without fine-tuning."""
    after = next((each.predictions for each in scored if each.split == VAL), None)
    if job.head is None or after is None or not len(after.labels):
        return None
    was_right, is_right = (each.predicted == each.labels for each in (job.head, after))
    both, lost, won = (int(each.sum()) for each in (was_right & is_right, was_right & ~is_right, ~was_right & is_right))
    interval = paired_interval(both, lost, won, len(after.labels) - both - lost - won)
    best = max((record.epoch for record in job.history if record.is_best), default=0)
    return {
        "kept": "fine-tuned" if best > (job.config.unfreeze_after or 0) else "head",
        "head_accuracy": _accuracy(job.head),
        "accuracy": _accuracy(after),
        "difference_ci95": list(interval),
    }


def _accuracy(predictions: Predictions) -> float:
    return (predictions.predicted == predictions.labels).double().mean().item()


def _say_all(job: Job, metrics: Mapping[str, Any], total_s: float) -> None:
    say()
    if found := metrics["fine_tuning"]:
        low, high = (100 * bound for bound in found["difference_ci95"])
        gain = 100 * (found["accuracy"] - found["head_accuracy"])
        better = f"kept: {gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
        what = better if found["kept"] == "fine-tuned" else "brought no lower validation loss: the head alone is kept"
        say(f"tuned    validation accuracy of the head {100 * found['head_accuracy']:.1f} %; fine-tuning {what}")
    for line in closing_lines(metrics):
        say(line)
    say(f"saved    {job.run.path}, after {total_s:.0f} s in all; look at report.html there")
    say(f"next     python Engine.py predict IMAGE_OR_FOLDER --run {shlex.quote(str(job.run.path))}")
