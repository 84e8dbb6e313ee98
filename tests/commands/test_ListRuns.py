"""`runs`: one line a run, finished or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from MLPipeline.commands import ListRuns
from tests.support.harness import SMALL, refuse, succeed, train


def test_every_run_has_a_line(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    assert "no runs yet" in succeed(["runs", "--output", output]).out
    train(data, output, make_images)
    succeed([*SMALL, "--data", data, "--output", output, "--name", "no held out", "--test-fraction", "0"])
    (output / "003-killed").mkdir()
    (output / "notes").mkdir()
    lines = succeed(["runs", "--output", output]).out.splitlines()
    table = pd.read_csv(output / "runs.csv")
    assert [line.split("  ")[0].rstrip() for line in lines] == ["run", "001-cnn", "002-no held out", "003-killed"]
    assert lines[0].split() == ["run", "ended", "model", "weights", "val", "test", "minutes"]
    assert lines[1].split()[1] == f"{datetime.now():%Y-%m-%d}" and " cnn    none " in lines[1]
    assert f"{100 * table['test_accuracy'][0]:.1f} %" in lines[1]
    assert "%        -  " in lines[2] and "nan" not in lines[2]
    assert lines[3].endswith("not finished")
    assert len({len(line) for line in lines[:3]}) == 1  # aligned
    assert not any("*" in line for line in lines)  # one run alone is not the best of any

    (output / "runs.csv").write_text("not,a\ntable,of,runs\n")
    refuse(["runs", "--output", output], 2, "runs.csv")


def set_test_accuracy(run: Path, accuracy: float) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["accuracy"] = accuracy
    (run / "metrics.json").write_text(json.dumps(metrics))


def test_the_figures_are_those_of_the_folder_and_not_of_one_that_was_deleted(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    train(data, output, make_images)
    (output / "001-cnn").rename(output / "004-renamed")
    shutil.copytree(output / "004-renamed", output / "001-cnn")  # of the same name, but from another machine
    set_test_accuracy(output / "001-cnn", 0.125)
    (output / "runs.csv").rename(output / "003-other.csv")
    elsewhere = succeed(["runs", "--output", output]).out
    (output / "003-other.csv").rename(output / "runs.csv")
    lines = succeed(["runs", "--output", output]).out.splitlines()
    assert lines == elsewhere.splitlines()
    assert lines[1].startswith("001-cnn ") and "  12.5 %" in lines[1]
    assert lines[2].startswith("004-renamed ") and " cnn    none " in lines[2]

    shutil.rmtree(output / "001-cnn")
    (output / "001-cnn").mkdir()  # a new training under the number that was free again
    assert succeed(["runs", "--output", output]).out.splitlines()[1].split() == ["001-cnn", "not", "finished"]


def test_the_best_of_those_judged_on_the_same_images_is_marked(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    train(data, output, make_images)
    for flags in (["--epochs", "1"], ["--seed", "3"]):
        succeed([*SMALL, "--data", data, "--output", output, *flags])
    for name, accuracy in zip(("001-cnn", "002-cnn", "003-cnn"), (0.75, 0.5, 1.0), strict=True):
        set_test_accuracy(output / name, accuracy)
    lines = succeed(["runs", "--output", output]).out.splitlines()
    assert [" *" in line for line in lines[1:4]] == [True, False, False]  # the third has other test images
    assert lines[4].startswith("* best on the same test images") and "compare R1 R2" in lines[4]
    (output / "001-cnn" / "config.json").unlink()
    assert not any("*" in line for line in succeed(["runs", "--output", output]).out.splitlines())


@pytest.mark.parametrize("large_bytes", [2**24, 0])
def test_runs_on_other_files_of_the_same_names_are_not_compared(
    tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(ListRuns, "_LARGE_BYTES", large_bytes)
    data, output = tmp_path / "Data", tmp_path / "output"
    train(data, output, make_images)
    succeed([*SMALL, "--data", data, "--output", output, "--epochs", "1"])
    assert "*" in succeed(["runs", "--output", output]).out
    first = pd.read_csv(output / "001-cnn" / "splits.csv", dtype=str)
    replaced = first["split"] == "test"
    first.loc[replaced, "digest"] = "00" * 16
    first.to_csv(output / "001-cnn" / "splits.csv", index=False)
    assert "*" not in succeed(["runs", "--output", output]).out
    (output / "001-cnn" / "splits.csv").write_text("not,a\ntable,of images\n")
    assert "*" not in succeed(["runs", "--output", output]).out
