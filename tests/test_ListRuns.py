"""`runs`: one line a run, finished or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from harness import SMALL, refuse, succeed, train


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
    assert lines[0].split() == ["run", "val", "test", "weights", "seconds"]
    assert f"{100 * table['test_accuracy'][0]:.1f} %" in lines[1] and " none " in lines[1]
    assert "   -  none" in lines[2] and "nan" not in lines[2]
    assert lines[3].endswith("not finished")
    assert len({line.rindex("none") for line in lines[1:3]}) == 1  # aligned

    (output / "runs.csv").write_text("not,a\ntable,of,runs\n")
    refuse(["runs", "--output", output], 2, "runs.csv")
