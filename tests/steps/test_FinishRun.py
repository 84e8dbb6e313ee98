"""What the end of a run says: which weights are kept and why, and how long the command took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from MLPipeline.console.Clock import clock
from MLPipeline.Errors import ResourceError
from MLPipeline.steps import FinishRun
from MLPipeline.steps.FinishRun import fine_tuning_lines
from tests.support.harness import SMALL, refuse, succeed

MakeImages = Callable[..., Path]
TUNED = {
    "kept": "fine-tuned",
    "criterion": "validation loss",
    "head_loss": 0.512,
    "head_accuracy": 0.8333,
    "tuned_loss": 0.4312,
    "tuned_accuracy": 0.75,
    "accuracy": 0.75,
    "difference_ci95": [-0.3, 0.15],
}


def test_fine_tuning_with_a_lower_loss_is_kept_although_it_is_less_accurate_and_both_figures_are_shown() -> None:
    assert fine_tuning_lines(TUNED) == [
        "tuned    kept the fine-tuned weights, for their lower validation loss: 0.4312 (head alone: 0.5120)",
        "         validation accuracy 75.0 % (head alone: 83.3 %; difference -8.3 points, "
        "95 % interval -30.0 to +15.0)",
    ]


def test_fine_tuning_with_a_higher_loss_is_not_kept_and_both_figures_are_shown() -> None:
    assert fine_tuning_lines(TUNED | {"kept": "head", "tuned_loss": 0.62, "tuned_accuracy": 0.9}) == [
        "tuned    kept the head alone, for its lower validation loss: 0.5120 (fine-tuned: 0.6200)",
        "         validation accuracy 83.3 % (fine-tuned: 90.0 %)",
    ]


@pytest.mark.parametrize("lr", ["1e-3", "1e-12"])
def test_the_weights_of_the_lower_validation_loss_are_kept(few: Path, tmp_path: Path, lr: str) -> None:
    """Of the two phases in the history, the one with the lower validation loss is kept."""
    flags = ["--model", "efficientnet_lite0", "--data", few, "--output", tmp_path, "--image-size", "32"]
    said = succeed([*flags, "--unfreeze-after", "2", "--epochs", "3", "--lr", lr, "-j", "1"]).out
    run = tmp_path / "001-efficientnet_lite0"
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["fine_tuning"]
    assert found["kept"] == ("fine-tuned" if found["tuned_loss"] < found["head_loss"] else "head")
    losses = [float(line.split(",")[3]) for line in (run / "history.csv").read_text().splitlines()[1:]]
    assert found["head_loss"] == pytest.approx(min(losses[:2]), abs=1e-3)
    assert found["tuned_loss"] == pytest.approx(losses[2], abs=1e-6)
    assert fine_tuning_lines(found)[0] in said
    assert f"Validation loss of the head alone: {found['head_loss']:.4f}" in (run / "report.html").read_text("utf-8")


def test_the_total_time_includes_the_pictures_and_the_start_of_the_command(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in metrics.json and on the page was measured after the last picture, from when the command began."""
    drawn: list[float] = []
    finish = FinishRun.drawing.finish

    def finish_late() -> None:
        finish()
        time.sleep(0.3)
        drawn.append(time.perf_counter())

    monkeypatch.setattr(FinishRun.drawing, "finish", finish_late)
    before = time.perf_counter()
    flags = ["--data", few, "--output", tmp_path, "--image-size", "32", "--epochs", "1", "-j", "1"]
    said = succeed(["--model", "cnn", *flags]).out
    total = json.loads((tmp_path / "001-cnn" / "metrics.json").read_text(encoding="utf-8"))["timing"]["total_s"]
    assert clock.start >= before
    assert clock.start + total >= drawn[0] - 0.01
    assert f"total time {total:.0f} s" in said
    assert "Total time" in (tmp_path / "001-cnn" / "report.html").read_text(encoding="utf-8")


def test_a_run_whose_model_card_cannot_be_written_is_not_complete_and_resumes(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        raise ResourceError(f"{path}: cannot be written", "Free space")

    data = make_images(tmp_path / "Data", {"cat": 10, "dog": 10})
    flags, run = [*SMALL, "--data", data, "--output", tmp_path / "output"], tmp_path / "output" / "001-cnn"
    with monkeypatch.context() as patch:
        patch.setattr(FinishRun, "write_model_card", full)
        refuse(flags, 3, "cannot be written")
    assert not (run / "metrics.json").exists() and not (run / "MODEL_CARD.md").exists()
    succeed(["--resume", run, "--output", tmp_path / "output"])
    test = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert f"**{100 * test['accuracy']:.1f} % of {test['n']} test images" in (run / "MODEL_CARD.md").read_text("utf-8")
