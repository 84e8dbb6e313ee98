"""Rows 46 and 47 of the fault matrix and a closed pipe: what only a process of its own can show."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.support.harness import SMALL, content, succeed, train
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]
ENGINE = [sys.executable, ROOT / "Engine.py"]


def start(argv: list[str | Path]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([str(word) for word in (*ENGINE, *argv)], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_best_weights_and_says_where(make_images: MakeImages, tmp_path: Path) -> None:
    data, output = make_images(tmp_path / "Data", {"cat": 10, "dog": 10}), tmp_path / "output"
    before = content(data)
    process = start([*SMALL, "--data", data, "--output", output, "--epochs", "100000"])
    lines = []
    while not lines or not lines[-1].startswith("    2 "):  # two epochs are done
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    stopped = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 40  # 10 s are promised, and 2 s it takes; a machine shared by tests may stall
    assert process.returncode == 130
    path = output / "001-cnn"
    assert f"note: stopped: the best weights so far are in {path / 'model.pt'}" in err and "Traceback" not in err
    assert content(data) == before
    stored = torch.load(path / "model.pt", weights_only=True)
    history = pd.read_csv(path / "history.csv")
    assert stored["epoch"] == history["epoch"][history["val_loss"].idxmin()]
    assert "not finished" in succeed(["runs", "--output", output]).out
    succeed(["predict", data / "cat" / "000.png", "--run", path])


@pytest.mark.slow
def test_stopped_while_it_makes_features_it_ends_soon_and_says_how_to_go_on(
    make_images: MakeImages, tmp_path: Path
) -> None:
    data, output = make_images(tmp_path / "Data", {"cat": 150, "dog": 150}), tmp_path / "output"
    flags = ["--model", "resnet18", "--weights", "none", "--freeze", "backbone", "--image-size", "96", "--epochs", "1"]
    process = start([*flags, "--data", data, "--output", output])
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in output.glob("cache/features-*/rows.bin")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    stopped = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 40  # as above
    assert process.returncode == 143 and "Traceback" not in err
    assert err.splitlines()[-1] == "note: stopped while reading the images: the same command continues from there"
    kept = sum(path.stat().st_size for path in output.glob("cache/features-*/keys.bin"))
    out = succeed([*flags, "--data", data, "--output", output]).out
    assert "result" in out and kept < sum(path.stat().st_size for path in output.glob("cache/features-*/keys.bin"))


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(make_images: MakeImages, tmp_path: Path) -> None:
    train(tmp_path / "Data", tmp_path / "output", make_images)
    make_images(tmp_path / "many", {"cat": 100})  # more than one batch: lines after the first meet a closed pipe
    process = start(["predict", tmp_path / "many", "--output", tmp_path / "output"])
    assert "%" in process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert err.splitlines() == [f"note: using {tmp_path / 'output' / '001-cnn' / 'model.pt'}"]
