"""At the end of a run: what to do next, estimated from its validation images and its stored features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from MLPipeline.advice.StoredFeatures import MAX_IMAGES, count_suspects, more_images, reduced
from MLPipeline.advice.Suggestions import Known, Suggestion, suggestions
from MLPipeline.Device import threads
from MLPipeline.Features import Dataset
from MLPipeline.files.Json import dump_json, parse_json
from MLPipeline.files.StoredResult import result_file, stored_result
from MLPipeline.heads.GatherFeatures import gather
from MLPipeline.images.ScanFolders import SPLITS, TEST, TRAIN, VAL
from MLPipeline.report.Report import too_few_tested
from MLPipeline.steps.Job import Job

_FORMAT = 1  # increases with every change to the estimates, or to how they are computed


def advise(job: Job, dataset: Dataset, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries `learning_curve` and `next_steps` of metrics.json.

    No figure of the test images is used, only their number.
    """
    config, found = job.config, metrics[SPLITS[VAL]]
    has_features = config.freeze == "backbone" and not dataset.rows.are_pixels and job.weights.kind != "none"
    with threads(1):  # another process draws meanwhile
        curve, num_suspects, num_images = _from_features(job, dataset) if has_features else (None, 0, 0)
    known = Known(
        config,
        str(job.run.path),
        job.weights.kind == "none",
        found["accuracy"] if found["n"] else None,
        num_images,
        curve,
        num_suspects,
        metrics["tta"],
        too_few_tested(metrics),
        _beats_baseline(found),
    )
    return {"learning_curve": curve, "next_steps": [asdict(each) for each in suggestions(known)]}


def _beats_baseline(figures: Mapping[str, Any]) -> bool:
    """Return whether an accuracy is significantly higher than if always the most frequent class were predicted."""
    most = max((each["support"] for each in figures["per_class"].values()), default=0)
    return figures["n"] > 0 and figures["accuracy_ci95"][0] > most / figures["n"]


def stored_suggestions(metrics: Mapping[str, Any]) -> list[Suggestion]:
    """Return the suggestions in the entry `next_steps` of metrics.json."""
    return [Suggestion(**each) for each in metrics["next_steps"]]


def _from_features(job: Job, dataset: Dataset) -> tuple[dict[str, Any] | None, int, int]:
    """Return the learning curve, the number of suspicious labels, and of how many images these are.

    For unchanged images, labels and seed the cache has them, computed once.
    """
    config, index = job.config, dataset.index
    positions = np.sort(np.concatenate([index.positions(TRAIN), index.positions(VAL)]))
    assert not np.isin(positions, index.positions(TEST)).any()
    positions = positions[:: -(-len(positions) // MAX_IMAGES)]
    features = gather(job.model, dataset, positions, config.precision)
    labels = index.labels[positions].astype(np.int64)
    groups = positions if index.groups is None else index.groups[positions].astype(np.int64)
    cache = config.output / "cache"

    def estimate() -> dict[str, Any]:
        rows = reduced(features, cache)
        found = more_images(rows, labels, groups, config.seed)
        curve = found.to_plain(index.classes) if found else None
        return {"learning_curve": curve, "num_suspects": count_suspects(rows, labels, groups, config.seed)}

    file = result_file(cache, "advice", (_FORMAT, config.seed, index.classes), features, labels, groups)
    known = stored_result(file, estimate, lambda each: dump_json(each).encode(), parse_json)
    return known["learning_curve"], known["num_suspects"], len(positions)
