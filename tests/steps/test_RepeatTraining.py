"""`--repeats`: trainings with other seeds, the mean of their weights where it validates better, also after a stop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.Errors import DivergedError
from MLPipeline.report.ModelCard import CARD_FILE
from MLPipeline.steps import FitPhases, RepeatTraining
from MLPipeline.steps.Job import Job
from MLPipeline.training.Soup import State
from tests.support.harness import refuse, run, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--precision", "fp32"]
TUNING = [*LITE, "--unfreeze-after", "1", "--epochs", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 14, "dog": 14})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def said(data: Path, output: Path) -> str:
    return succeed([*TUNING, "--repeats", "2", "--data", data, "--output", output, "--name", "whole"]).out


def content(output: Path, name: str) -> dict[str, Any]:
    (path,) = output.glob(f"*-{name}/metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))


def weights(output: Path, name: str) -> State:
    (path,) = output.glob(f"*-{name}/model.pt")
    return load_checkpoint(path)[0].state_dict()


def test_the_console_and_the_figures_of_a_run(said: str, output: Path) -> None:
    found = content(output, "whole")["repeats"]
    assert "repeats  2: afterwards the training is repeated once with another seed, and the weights are" in said
    assert said.count("epoch  train loss") == 2 and said.count("views    ") == 1
    assert found["number"] == len(set(found["losses"])) == 2
    assert f"repeat   2 of 2: validation loss {found['losses'][1]:.4f}; averaged with it" in said
    assert found["loss"] <= found["losses"][0] and found["averaged"][0] == 1
    assert found["loss"] == pytest.approx(content(output, "whole")["val"]["loss"], abs=1e-4)
    assert not (output / "001-whole" / "parts").exists()


@pytest.mark.parametrize(("mean_loss", "is_kept"), [(0.3, True), (0.5, False)])
def test_the_mean_of_the_weights_is_saved_where_its_loss_is_lower(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean_loss: float, is_kept: bool
) -> None:
    starts, states, fit, losses = [], [], FitPhases.fit_phases, iter([0.5, 0.4, mean_loss])

    def spied(job: Job) -> Any:
        starts.append((job.config.seed, job.model.head[1].weight.clone(), job.index.splits.tolist()))
        dataset = fit(job)
        states.append({name: value.clone() for name, value in job.model.state_dict().items()})
        return dataset

    monkeypatch.setattr(FitPhases, "fit_phases", spied)  # where Engine.train finds it
    monkeypatch.setattr(RepeatTraining, "fit_phases", spied)
    monkeypatch.setattr(RepeatTraining, "_loss", lambda job, dataset: next(losses))
    flags = ["--repeats", "2", "--seed", str(2**64 - 1), "--data", data, "--output", tmp_path, "--name", "repeated"]
    said = succeed([*TUNING, *flags]).out
    (seed, head, splits), (another, same_head, same_splits) = starts
    assert (seed, another) == (2**64 - 1, 1_000_002)
    assert torch.equal(head, same_head) and splits == same_splits
    assert f"averaged with it {mean_loss:.4f} ({'kept' if is_kept else 'not kept'}: 0.5000 without it)" in said
    for name, value in weights(tmp_path, "repeated").items():
        mean = torch.stack([state[name].double() for state in states]).mean(0) if is_kept else states[0][name]
        assert not value.is_floating_point() or torch.allclose(value.double(), mean.double(), atol=1e-6), name
    assert content(tmp_path, "repeated")["repeats"]["averaged"] == [1, 2][: 1 + is_kept]
    page, card = ((tmp_path / "001-repeated" / name).read_text(encoding="utf-8") for name in ("report.html", CARD_FILE))
    assert ("mean of those of 2 trainings with different seeds" in page) == is_kept
    assert ("the mean of the weights of 2 of them has 0.3000 and is saved" in page) == is_kept
    assert ("none of the others lowered it" in page) != is_kept
    assert ("with the weights averaged over 2 trainings with different seeds;" in card) == is_kept


def test_a_run_stopped_in_a_repetition_continues_there(
    said: str, data: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, trained = FitPhases.fit, []

    def stopping(*arguments: Any) -> Iterator[Any]:
        for record in fit(*arguments):
            trained.append(record.epoch)
            yield record
            if len(trained) == 3 + 2:  # the run, and two epochs of the first repetition
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(FitPhases, "fit", stopping)
    outcome = run([*TUNING, "--repeats", "2", "--data", data, "--output", output, "--name", "stopped"])
    assert outcome.code == 130 and "to resume: python Engine.py --resume" in outcome.err
    (folder,) = output.glob("*-stopped")
    assert [path.name for path in (folder / "parts").iterdir()] == ["repeat-2"]
    succeed(["--resume", folder, "--output", output])
    assert trained == [1, 2, 3, 1, 2, 3]
    again, whole = content(output, "stopped"), content(output, "whole")
    assert (again["repeats"], again["test"], again["val"]) == (whole["repeats"], whole["test"], whole["val"])
    stopped, uninterrupted = weights(output, "stopped"), weights(output, "whole")
    assert all(torch.equal(value, uninterrupted[name]) for name, value in stopped.items())


def test_a_repetition_that_diverges_costs_no_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(job: Job) -> None:
        raise DivergedError("epoch 2: the loss is not finite", "Lower --lr")

    monkeypatch.setattr(RepeatTraining, "fit_phases", diverge)
    outcome = succeed([*TUNING, "--repeats", "3", "--data", data, "--output", tmp_path])
    assert "--repeats: training 2 is left out, and none follows: epoch 2: the loss is not finite" in outcome.err
    assert content(tmp_path, "efficientnet_lite0")["repeats"] is None


def test_without_validation_images_nothing_is_repeated(data: Path, tmp_path: Path) -> None:
    outcome = succeed([*TUNING, "--repeats", "2", "--val-fraction", "0", "--data", data, "--output", tmp_path])
    assert outcome.out.count("epoch  train loss") == 1
    assert "--repeats: there are no validation images to compare an average with" in outcome.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time", "3"], "--repeats 2: repeats a training, and --time plans a single one"),
        (["--folds", "3", "--unfreeze-after", "1"], "--repeats 2: the folds would not test its average"),
        ([], "--repeats 2: a head that is fitted in closed form is the same each time"),
        (
            ["--weights", "none", "--freeze", "none"],
            "--repeats 2: networks that are trained from random weights have no useful mean",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_repeated_is_refused(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    refuse([*LITE, "--data", data, "--output", tmp_path, "--repeats", "2", *flags], 2, message)
