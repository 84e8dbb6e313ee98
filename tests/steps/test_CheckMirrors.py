"""Mirroring is no default where it exchanges classes, and the run says so before it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from MLPipeline.steps import CheckMirrors
from tests.audit.test_MirroredClasses import arrow, disc_or_square
from tests.support.harness import Outcome, succeed

LEFT_OUT = "hflip is left out: mirrored left to right, "


def draw(root: Path, draw_one, names: tuple[str, str], number: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for place in range(number):
            picture = cv2.cvtColor(draw_one(rng, label == 0), cv2.COLOR_GRAY2BGR)
            (root / name / f"{place}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return root


@pytest.fixture(scope="module")
def arrows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("arrows") / "data", arrow, ("left", "right"))


def train(data: Path, output: Path, *flags: object) -> Outcome:
    return succeed(["--model", "cnn_residual", "--data", data, "--output", output, "-j", "1", *flags])


def settings_of(output: Path, number: int = 1) -> dict:
    return json.loads((output / f"{number:03d}-cnn_residual" / "config.json").read_text(encoding="utf-8"))


def test_arrows_are_learnt_because_they_are_not_mirrored(arrows: Path, tmp_path: Path) -> None:
    said = train(arrows, tmp_path, "--epochs", "14", "--val-fraction", "0.2", "--test-fraction", "0.25").out
    assert "augment  translate: " in said
    line = next(line for line in said.splitlines() if LEFT_OUT in line)
    assert "are classified as" in line and line.endswith("; --augment hflip,translate uses it")
    assert said.index(LEFT_OUT) < said.index("epoch  train loss")
    assert settings_of(tmp_path)["augment"] == "translate"
    metrics = json.loads((tmp_path / "001-cnn_residual" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"]["accuracy"] >= 0.9  # 55 to 65 % with mirroring


def test_a_stated_augmentation_is_used_with_a_warning(arrows: Path, tmp_path: Path) -> None:
    said = train(arrows, tmp_path, "--epochs", "1", "--augment", "hflip").out
    assert "warning  --augment hflip may exchange classes: mirrored left to right, " in said
    assert settings_of(tmp_path)["augment"] == "hflip"


def test_the_settings_of_the_run_take_the_same_decision_again(arrows: Path, tmp_path: Path) -> None:
    train(arrows, tmp_path, "--epochs", "1")
    settings = tmp_path / "001-cnn_residual" / "config.json"
    said = succeed(["--config", settings, "-j", "1"]).out
    assert "augment  translate: " in said and LEFT_OUT not in said
    assert settings_of(tmp_path, 2)["augment"] == "translate"


def test_shapes_that_survive_mirroring_are_mirrored(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", disc_or_square, ("disc", "square"), 24)
    said = train(data, tmp_path / "output", "--epochs", "1").out
    assert "augment  hflip,translate: mirrored left to right" in said and "left out" not in said
    assert settings_of(tmp_path / "output")["augment"] == "hflip,translate"


def test_fine_tuning_does_not_mirror_arrows_either(arrows: Path, tmp_path: Path) -> None:
    flags = ["--unfreeze-after", "1", "--epochs", "2", "--image-size", "64"]
    said = succeed(["--model", "efficientnet_lite0", "--data", arrows, "--output", tmp_path, "-j", "1", *flags]).out
    assert LEFT_OUT in said and "augment  crop in fine-tuning: " in said
    assert "validation loss: " in said and "head alone" in said


def test_without_augmentation_the_answer_is_found_once_for_the_same_images_and_labels(
    arrows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--tta` needs it at the end of every run."""
    exchanges, asked = CheckMirrors._exchanges, []

    def spied(*arguments: Any) -> Any:
        asked.append(arguments)
        return exchanges(*arguments)

    monkeypatch.setattr(CheckMirrors, "_exchanges", spied)
    flags, said = ("--epochs", "1", "--augment", "none"), []
    for seed in ("0", "0", "1"):
        said.append(train(arrows, tmp_path / "output", *flags, "--seed", seed).out)
    assert len(asked) == 2  # another seed has other training images
    refusals = [next(line for line in each.splitlines() if line.startswith("tta ")) for each in said]
    assert all("must not be used: mirrored left to right, " in line for line in refusals)
    assert refusals[0] == refusals[1]
