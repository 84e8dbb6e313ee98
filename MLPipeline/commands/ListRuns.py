"""`python Engine.py runs`: the runs of the output folder, oldest first."""

from __future__ import annotations

from MLPipeline.commands.Console import say
from MLPipeline.Config import Config
from MLPipeline.files.RunFolder import list_runs, read_runs


def list_all(config: Config) -> None:
    """Print one line per run: its folder, accuracy on validation and test images, weights, time."""
    rows = read_runs(config.output)
    finished = {row["run"]: row for row in rows.to_dict("records")}
    runs = list_runs(config.output)
    if not runs:
        say(f"{config.output} has no runs yet. Train one: python Engine.py --model resnet50")
        return
    width = max(len("run"), *(len(run.path.name) for run in runs))
    say(f"{'run':{width}}      val     test  weights   seconds")
    for run in runs:
        if row := finished.get(run.path.name):
            figures = "  ".join(_percent(row[f"{split}_accuracy"]) for split in ("val", "test"))
            say(f"{run.path.name:{width}}  {figures}  {row['weights']:8}  {row['seconds']:7.0f}")
        else:
            say(f"{run.path.name:{width}}  not finished")


def _percent(value: float) -> str:
    return f"{100 * value:5.1f} %" if value == value else "      -"  # NaN: no such images
