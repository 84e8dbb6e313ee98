"""The main job when something comes between, and what else a bare command line does."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

import Engine
from MLPipeline import CreateDataset
from MLPipeline.Augment import make_augmentation
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.decoding.ReadImage import UnreadableImage, read_bytes, read_thumbnail
from MLPipeline.images import Inspect
from MLPipeline.report import Thumbnails
from MLPipeline.report.Drawing import drawing
from MLPipeline.steps import FitPhases
from tests.support.harness import SMALL, refuse, run, succeed
from tests.support.trained_run import Trained

MakeImages = Callable[..., Path]


def test_an_interrupted_run_keeps_the_weights_of_its_best_epoch(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained.again("--epochs", "1")
    losses = iter([0.1, 0.2, 0.3])  # the first epoch is the best
    say = FitPhases.say

    def interrupt(text: str = "") -> None:
        say(text)
        if text.startswith("    3 "):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("MLPipeline.Train._figures", lambda predictions: (next(losses), 0.5))
    monkeypatch.setattr(FitPhases, "say", interrupt)
    outcome = run([*SMALL, "--data", trained.data, "--output", trained.output, "--epochs", "9"])
    path = sorted(trained.output.glob("[0-9]*-*"))[-1]
    assert outcome.code == 130
    assert outcome.notes == [
        f"stopped: the best weights so far are in {path / 'model.pt'}",
        f"to resume: python Engine.py --resume {path}",
    ]
    assert pd.read_csv(path / "history.csv")["val_loss"].tolist() == [0.1, 0.2, 0.3]
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "stopped by hand" in page and "--resume" in page
    stopped, best = (torch.load(each / "model.pt", weights_only=True) for each in (path, first))
    assert stopped["epoch"] == 1
    assert all(torch.equal(stopped["state_dict"][name], tensor) for name, tensor in best["state_dict"].items())


def test_a_file_that_vanishes_before_it_is_drawn_does_not_stop_the_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UnreadableImage("no such file or directory")

    monkeypatch.setattr(Preprocessing, "read", gone)
    assert cv2.imread(str(trained.again() / "samples.png")) is not None


def test_a_bare_call_shows_the_images_and_how_to_go_on(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained.data.parent)
    out = succeed([]).out
    assert "Data: 51 images in 3 classes" in out and "cat      21" in out and "--model" in out
    monkeypatch.chdir(tmp_path)
    assert "Expected one folder per class" in succeed([]).out


def test_version_and_help() -> None:
    assert f"torch {version('torch')}" in succeed(["--version"]).out
    assert "--model" in succeed(["--help"]).out
    assert "--topk" in succeed(["predict", "--help"]).out


@pytest.mark.parametrize("words", [[""], ["a.png", ""], ["--topk", "2", ""]])
def test_an_empty_path_is_not_the_working_folder(words: list[str]) -> None:
    """As of a shell variable that is not set: `predict "$FILE"`."""
    refuse(["predict", *words], 2, "predict: an empty path, such as that of a shell variable")


def test_a_bug_of_ours_is_told_from_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "command_of", lambda verb: lambda config: 1 / 0)
    outcome = run(["runs"])
    assert outcome.code == 1 and "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ZeroDivisionError")


def test_a_rate_is_looked_for_and_nothing_trained(trained: Trained) -> None:
    before = sorted(trained.output.glob("[0-9]*-*"))
    outcome = succeed([*SMALL, "--data", trained.data, "--output", trained.output, "--find-lr"])
    rate = float(re.search(r"suggested --lr (\S+):", outcome.out)[1])
    assert 1e-5 < rate < 1 and cv2.imread(str(trained.output / "find_lr.png")).shape[1] > 500
    assert sorted(trained.output.glob("[0-9]*-*")) == before


def test_the_samples_show_what_augmentation_does(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    real = drawing.draw

    def draw(name: str, images: np.ndarray, *others: object) -> None:
        shown[others[-1]] = images
        real(name, images, *others)

    monkeypatch.setattr(drawing, "draw", draw)
    plain, changed = trained.again("--epochs", "1"), trained.again("--epochs", "1", "--augment", "vflip,jitter")
    before, after = (torch.from_numpy(np.ascontiguousarray(shown[run / "samples.png"])) for run in (plain, changed))
    rows = pd.read_csv(plain / "splits.csv")
    is_after_the_bad_file = (rows["class"] != "cat").to_numpy()  # which has a position, but no row
    positions = (np.arange(len(rows)) + is_after_the_bad_file)[(rows["split"] == "train").to_numpy()]
    order = np.arange(len(positions))
    np.random.default_rng([0, 1]).shuffle(order)
    positions = torch.from_numpy(positions[order][: len(before)])
    expected, _ = make_augmentation("vflip,jitter")(before, torch.zeros(len(before), 1), 0, 1, positions)
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_what_is_trained_on_pixels_opens_each_file_once(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*SMALL, "--data", make_images(tmp_path / "Data", {"cat": 12, "dog": 12}), "--output"]
    opened: list[Path] = []
    for module in (CreateDataset, Inspect):
        monkeypatch.setattr(module, "read_bytes", lambda path: (opened.append(path), read_bytes(path))[1])
    succeed([*flags, tmp_path / "kept"])
    assert len(opened) == len(set(opened)) == 24
    opened.clear()
    succeed([*flags, tmp_path / "not kept", "--cache-limit", "0"])  # there is no room: decoded anew in every epoch
    assert len(opened) > 2 * 24 and not list((tmp_path / "not kept").glob("cache/pixels-*"))
    histories = [pd.read_csv(next(tmp_path.glob(f"{name}/001-*/history.csv"))) for name in ("kept", "not kept")]
    assert histories[0].drop(columns="seconds").equals(histories[1].drop(columns="seconds"))


def test_images_that_are_judged_are_made_small_beside_the_training(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        Thumbnails, "read_thumbnail", lambda path, *rest: (read.append(path), read_thumbnail(path, *rest))[1]
    )
    run = trained.again("--epochs", "1", paints=True)  # with the process that draws
    rows = pd.read_csv(run / "splits.csv")
    of_training = {trained.data / path for path in rows["path"][rows["split"] == "train"]}
    assert read and set(read) <= of_training  # the samples; all else comes from the process that draws
    assert (run / "report.html").read_text().count("data:image/jpeg") >= len(read) + (rows["split"] == "test").sum()
