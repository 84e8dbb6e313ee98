"""`runs`: one line a run, finished or not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd

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


def test_the_best_of_those_judged_on_the_same_images_is_marked(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    data, output = tmp_path / "Data", tmp_path / "output"
    train(data, output, make_images)
    for flags in (["--epochs", "1"], ["--seed", "3"]):
        succeed([*SMALL, "--data", data, "--output", output, *flags])
    table = pd.read_csv(output / "runs.csv")
    table["test_accuracy"] = [0.75, 0.5, 1.0]
    table.to_csv(output / "runs.csv", index=False)
    lines = succeed(["runs", "--output", output]).out.splitlines()
    assert [" *" in line for line in lines[1:4]] == [True, False, False]  # the third has other test images
    assert lines[4].startswith("* best on the same test images") and "compare R1 R2" in lines[4]
    (output / "001-cnn" / "config.json").unlink()
    assert not any("*" in line for line in succeed(["runs", "--output", output]).out.splitlines())
