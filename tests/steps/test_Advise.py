"""What a run suggests at its end: in metrics.json, on the console and on the page; test labels play no part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from MLPipeline.advice.StoredFeatures import more_images
from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Features import Dataset
from MLPipeline.frozen.Rows import CachedRows
from MLPipeline.images.ScanFolders import TEST
from MLPipeline.scoring.Intervals import wilson_interval
from MLPipeline.steps import Advise
from MLPipeline.steps.Job import Job
from tests.support.audit_cases import clusters
from tests.support.harness import SMALL, succeed
from tests.support.split_cases import index_of

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--head", "ridge"]


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_a_frozen_run_says_what_to_do_next(tmp_path: Path, make_images: MakeImages) -> None:
    data = make_images(tmp_path / "Data", {"cat": 20, "dog": 20})
    said = succeed([*LITE, "--data", data, "--output", tmp_path / "output"]).out
    run = tmp_path / "output" / "001-efficientnet_lite0"
    found, page = metrics_of(run), (run / "report.html").read_text(encoding="utf-8")
    assert found["learning_curve"]["num_images"] == sorted(found["learning_curve"]["num_images"])
    assert 1 <= len(found["next_steps"]) <= 5
    for each in found["next_steps"]:
        assert f"{each['what']}" in said and each["command"] in said
        assert each["command"].replace("'", "&#39;") in page
    assert said.index("result   ") < said.index("improve  ") < said.index("saved    ")
    assert "Training images</text>" in page and "by training images" in page


@pytest.mark.parametrize(("flags", "counts"), [(LITE, {"cat": 3, "dog": 3}), (SMALL, {"cat": 8, "dog": 8})])
def test_tiny_sets_and_networks_from_scratch_have_no_learning_curve(
    tmp_path: Path, make_images: MakeImages, flags: list[str], counts: dict[str, int]
) -> None:
    data = make_images(tmp_path / "Data", counts)
    succeed([*flags, "--data", data, "--output", tmp_path / "output"])
    found = metrics_of(next((tmp_path / "output").glob("001-*")))
    assert found["learning_curve"] is None
    what = [each["what"] for each in found["next_steps"]]
    assert ("start from ImageNet weights" in what[0]) == (flags is SMALL)


class Estimates:
    """What is estimated from the stored features of 120 images, for given labels."""

    def __init__(self, output: Path) -> None:
        self.output, (self.features, self.labels) = output, clusters(120)
        self.features[self.labels == 1] *= 0.4
        self.splits = np.arange(120) // 4 % 3  # a third of each class is for the test

    def __call__(self, labels: np.ndarray, seed: int = 0) -> Any:
        splits = self.splits.astype(np.int8)
        index = replace(index_of(30, 30, 30, 30), labels=labels.astype(np.int32), splits=splits)
        model = Classifier(nn.Sequential(), nn.Linear(self.features.shape[1], 4))
        job = cast(Job, SimpleNamespace(config=Config(output=self.output, seed=seed), model=model))
        rows = CachedRows(self.features, np.arange(120)[:, None], are_pixels=False)
        return Advise._from_features(job, Dataset(index, rows, 8, 0))


def test_labels_of_test_images_change_nothing(tmp_path: Path) -> None:
    estimates = Estimates(tmp_path)
    labels, is_test = estimates.labels, estimates.splits == TEST
    assert estimates(labels) == estimates(np.where(is_test, 0, labels))
    assert estimates(labels) != estimates(np.where(is_test, labels, 3 - labels // 2))


def test_unchanged_images_and_labels_are_estimated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimates, numbers = Estimates(tmp_path), []

    def counted(features: np.ndarray, *others: Any) -> Any:
        numbers.append(len(features))
        return more_images(features, *others)

    monkeypatch.setattr(Advise, "more_images", counted)
    first = estimates(estimates.labels)
    assert first[0] is not None and first[2] == 80
    assert estimates(estimates.labels) == first and numbers == [80]
    estimates(3 - estimates.labels)
    estimates(estimates.labels, seed=1)
    estimates.features = estimates.features + np.float32(0.5)
    estimates(estimates.labels)
    assert numbers == [80] * 4
    assert Estimates(tmp_path / "other")(estimates.labels) == first and numbers == [80] * 5


@pytest.mark.parametrize(
    ("counts", "supports", "expected"),
    [((29, 30), (15, 15), True), ((16, 30), (15, 15), False), ((26, 30), (25, 5), False), ((0, 0), (0, 0), False)],
)
def test_whether_a_head_is_better_than_the_majority_class(
    counts: tuple[int, int], supports: tuple[int, int], expected: bool
) -> None:
    per_class = {name: {"support": number} for name, number in zip("ab", supports, strict=True)}
    figures = {"n": counts[1], "accuracy_ci95": list(wilson_interval(*counts)), "per_class": per_class}
    assert Advise._beats_baseline(figures) is expected
