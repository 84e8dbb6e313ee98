"""Row 129 of the fault matrix: the checks for a GPU where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.gpu import Check

MakeImages = Callable[..., Path]


def fails(folder: Path) -> dict[str, object]:
    raise AssertionError("the figure is wrong")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is for machines without a GPU")
def test_129_the_checks_for_a_gpu_without_one(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, the checks that are for one run in their small form on the CPU, and a failure is reported."""
    make_images(tmp_path / "Data", {"cat": 4, "dog": 4, "eel": 4})
    monkeypatch.setattr(Check, "DATA", tmp_path / "Data")
    monkeypatch.setattr(Check, "SIZE", 32)
    monkeypatch.setattr(Check, "CHECKS", (Check.features, Check.training, Check.memory))
    assert Check.main(tmp_path / "results.json") == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["device"] == "CPU" and all(each["passed"] for each in found["checks"].values())
    assert found["checks"]["features"]["efficientnet_lite0"]["worst_cosine"] > 0.999
    assert found["checks"]["memory"]["skipped"] == "there is no GPU whose memory could be short"
    monkeypatch.setattr(Check, "CHECKS", (fails,))
    assert Check.main(tmp_path / "results.json") == 1
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert "the figure is wrong" in found["checks"]["fails"]["error"]
