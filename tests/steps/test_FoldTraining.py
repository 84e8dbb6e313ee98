"""`--folds` of trainings: each image tested by a network that never saw it, also after a stop; their average."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.heads.Ensemble import Ensemble
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.steps import FitPhases, FoldTraining
from MLPipeline.steps.Job import Job
from tests.support.harness import Outcome, refuse, run, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--precision", "fp32"]
TUNING = [*LITE, "--unfreeze-after", "1", "--epochs", "3", "--folds", "3"]
SCRATCH = ["--model", "cnn", "--image-size", "16", "-j", "1", "--epochs", "2", "--folds", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 14, "dog": 14, "owl": 2})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def parts() -> list[Job]:
    """The trainings of the folds of `tuned`, after each has ended."""
    return []


@pytest.fixture(scope="module")
def tuned(data: Path, output: Path, parts: list[Job]) -> Outcome:
    """A fine-tuning in folds, with their average."""
    test = FoldTraining._train_and_test

    def spied(job: Job) -> Any:
        parts.append(job)
        return test(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldTraining, "_train_and_test", spied)
        return succeed([*TUNING, "--ensemble", "--data", data, "--output", output, "--name", "tuned"])


def content(output: Path, name: str) -> dict[str, Any]:
    (path,) = output.glob(f"*-{name}/metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_image_is_tested_by_a_network_that_never_saw_it(tuned: Outcome, parts: list[Job], output: Path) -> None:
    known = [set(part.index.positions(TRAIN).tolist()) for part in parts]
    tested = [set(part.index.positions(TEST).tolist()) for part in parts]
    held_out = {tuple(part.index.positions(VAL).tolist()) for part in parts}
    (val,) = held_out
    assert len(parts) == 3 and len(val) and all(tested)
    for seen, asked in zip(known, tested, strict=True):
        assert not seen & asked and not (seen | asked) & set(val)
    assert sum(map(len, tested)) == len(set.union(*tested)) == content(output, "tuned")["test"]["n"]
    assert set.union(*tested) == set(range(30)) - set(val)


def test_the_console_and_the_figures(tuned: Outcome, output: Path) -> None:
    found = content(output, "tuned")
    number = found["test"]["n"]
    assert "folds    3: afterwards the training is repeated without each fold, which is then tested" in tuned.out
    assert "folds    the training is repeated 3 times, about " in tuned.out
    assert tuned.out.count("epoch  train loss") == 4 and tuned.out.count("views    ") == 1
    assert f"folds    {number} images tested once each, in 3 folds" in tuned.out
    assert f"result   cross-validated accuracy {100 * found['test']['accuracy']:.1f} %" in tuned.out
    assert (found["folds"]["number"], found["folds"]["num_images"], found["folds"]["of"]) == (3, number, "network")
    shares = [line.split("accuracy ")[1].split(" %")[0] for line in tuned.out.splitlines() if line[:9] == "fold     "]
    sizes = [int(line.split(" of ")[2].split()[0]) for line in tuned.out.splitlines() if line[:9] == "fold     "]
    right = sum(round(float(share) * size / 100) for share, size in zip(shares, sizes, strict=True))
    assert sum(sizes) == number and right == round(found["test"]["accuracy"] * number)
    page = (output / "001-tuned" / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "each classified once by a network trained without its fold (3 folds)" in page
    assert not (output / "001-tuned" / "parts").exists()


def test_the_average_has_the_mean_weights_of_the_folds_if_it_validates_better(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, test = [], FoldTraining._train_and_test

    def spied(job: Job) -> Any:
        found = test(job)
        states.append({name: value.clone() for name, value in job.model.state_dict().items()})
        return found

    monkeypatch.setattr(FoldTraining, "_train_and_test", spied)
    saved = {}
    for is_better in (True, False):
        monkeypatch.setattr(Ensemble, "is_better", property(lambda self, answer=is_better: answer))
        name = f"better-{is_better}"
        succeed([*SCRATCH, "--ensemble", "--data", data, "--output", tmp_path, "--name", name])
        (folder,) = tmp_path.glob(f"*-{name}")
        saved[is_better] = load_checkpoint(folder / "model.pt")[0].state_dict()
        kept = content(tmp_path, name)["folds"]["ensemble"]["is_kept"]
        page, card = ((folder / each).read_text(encoding="utf-8") for each in ("report.html", "MODEL_CARD.md"))
        assert kept == is_better == ("has the mean weights of the networks of all folds" in page)
        assert is_better == ("The saved weights are the mean of those of all folds." in page)
        assert is_better == ("2 epochs, with the weights averaged over all folds;" in card)
    for name, value in saved[True].items():
        mean = torch.stack([state[name].double() for state in states[:3]]).mean(0)
        assert torch.allclose(value.double(), mean, atol=1e-6), name
        assert not value.is_floating_point() or not torch.equal(value, saved[False][name]) or name in ("mean", "std")


def test_a_run_stopped_in_a_fold_continues_in_that_fold(
    tuned: Outcome, data: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, trained = FitPhases.fit, []

    def stopping(*arguments: Any) -> Iterator[Any]:
        for record in fit(*arguments):
            trained.append(record.epoch)
            yield record
            if len(trained) == 3 + 3 + 2:  # the run, the first fold, and two epochs of the second
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(FitPhases, "fit", stopping)
    outcome = run([*TUNING, "--ensemble", "--data", data, "--output", output, "--name", "stopped"])
    assert outcome.code == 130 and "to resume: python Engine.py --resume" in outcome.err
    (folder,) = output.glob("*-stopped")
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["fold-1", "fold-2"]
    assert (folder / "model.pt").exists() and not list((folder / "parts").rglob("model.pt"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "stopped" in page
    succeed(["--resume", folder, "--output", output])
    assert trained == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]
    again, whole = content(output, "stopped"), content(output, "tuned")
    assert (again["test"], again["folds"], again["val"]) == (whole["test"], whole["folds"], whole["val"])
    assert not (folder / "parts").exists()


def test_a_network_without_pretrained_weights_is_tested_too(data: Path, tmp_path: Path) -> None:
    said = succeed([*SCRATCH, "--data", data, "--output", tmp_path]).out
    found = content(tmp_path, "cnn")
    assert found["test"]["n"] == found["folds"]["num_images"] > 20 and found["folds"]["of"] == "network"
    assert "mean weights" not in said and found["folds"]["ensemble"] is None


def test_without_validation_images_all_are_tested_and_no_average_is_kept(data: Path, tmp_path: Path) -> None:
    outcome = succeed([*SCRATCH, "--ensemble", "--val-fraction", "0", "--data", data, "--output", tmp_path])
    assert content(tmp_path, "cnn")["test"]["n"] == 30
    assert "--ensemble: there are no validation images to compare the average with" in outcome.err


@pytest.mark.parametrize("flags", [["--unfreeze-after", "1", "--epochs", "2"], ["--augment", "hflip"]], ids=str)
def test_only_the_networks_are_averaged_where_a_solved_head_comes_first(
    data: Path, tmp_path: Path, flags: list[str]
) -> None:
    command = [*LITE, "--head", "ridge", "--folds", "2", "--ensemble", *flags, "--data", data, "--output", tmp_path]
    succeed(command)
    found = content(tmp_path, "efficientnet_lite0")
    assert found["head"]["ensemble"] is None
    assert found["folds"]["of"] == "network" and set(found["folds"]["ensemble"]) == {"alone", "loss", "is_kept"}


def test_an_average_needs_folds(data: Path, tmp_path: Path) -> None:
    refuse(
        [*LITE, "--unfreeze-after", "1", "--ensemble", "--data", data, "--output", tmp_path], 2, "--ensemble: averages"
    )


def test_classes_of_few_images_are_said(tuned: Outcome, output: Path) -> None:
    short = content(output, "tuned")["folds"]["classes_of_fewer_folds"]
    assert short == {"owl": 2} or short == {"owl": 1}
    assert "class owl has too few images that are not copies" in tuned.out


def test_all_labels_of_a_fold_are_of_its_images(tuned: Outcome, parts: list[Job], output: Path) -> None:
    supports = {name: each["support"] for name, each in content(output, "tuned")["test"]["per_class"].items()}
    labels = np.concatenate([part.index.labels[part.index.positions(TEST)] for part in parts])
    assert supports == {name: int((labels == place).sum()) for place, name in enumerate(parts[0].index.classes)}
