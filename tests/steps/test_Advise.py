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

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Features import Dataset
from MLPipeline.frozen.Rows import CachedRows
from MLPipeline.images.ScanFolders import TEST
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


def test_labels_of_test_images_change_nothing() -> None:
    features, labels = clusters(120)
    features[labels == 1] *= 0.4
    splits = np.arange(120) // 4 % 3  # a third of each class is for the test
    model = Classifier(nn.Sequential(), nn.Linear(features.shape[1], 4))
    rows = CachedRows(features, np.arange(120)[:, None], are_pixels=False)

    def estimates(labels: np.ndarray) -> Any:
        index = replace(index_of(30, 30, 30, 30), labels=labels.astype(np.int32), splits=splits.astype(np.int8))
        job = cast(Job, SimpleNamespace(config=Config(), model=model))
        return Advise._from_features(job, Dataset(index, rows, 8, 0))

    changed = np.where(splits == TEST, 0, labels)
    assert estimates(labels) == estimates(changed)
    assert estimates(labels) != estimates(np.where(splits == TEST, labels, 3 - labels // 2))
