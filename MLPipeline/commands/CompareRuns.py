"""`python Engine.py compare R1 R2`: tests whether one of two runs is significantly better, and on which images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from MLPipeline.Config import DEFAULT_DATA, Config, read_settings
from MLPipeline.console.Console import say
from MLPipeline.decoding.Levels import LEVELS_FILE, Levels, are_levels
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import Reserved
from MLPipeline.files.Json import read_json
from MLPipeline.files.RunFolder import Run, find_run, recorded_data
from MLPipeline.report.ComparisonPage import write_comparison
from MLPipeline.scoring.Comparison import Comparison, compare

_MAX_FLIPS = 20


def run(config: Config) -> None:
    """Print both accuracies, their paired difference and the images only one run classifies correctly; write a page.

    Raises:
        UsageError: not exactly two runs are given, there is no such run, or `--output` lies inside the images.
        DataError: the runs were not evaluated on the same images.
        ResourceError: the page cannot be written.
    """
    if len(config.paths) != 2:
        raise UsageError(f"compare: {len(config.paths)} runs given, expected two", "python Engine.py compare 1 2")
    first, second = (find_run(config.output, str(name)) for name in config.paths)
    comparison = compare(first, second)
    for line in comparison_lines(comparison):
        say(line)
    page = config.output / f"compare-{'-'.join(comparison.names)}.html"
    settings: dict[str, Any] = {}
    with suppress(UsageError):  # a run from another machine may have no settings
        settings = read_settings(first.path / "config.json")
    preprocessing = Preprocessing(levels=_levels_of(first))
    data = recorded_data(first.path) or Path(settings.get("data", DEFAULT_DATA))
    Reserved([data]).check_folder("--output", config.output)
    write_comparison(page, comparison, data, preprocessing)
    say(f"page     {page}")


def _levels_of(run: Run) -> Levels | None:
    """Return the levels of the images with more than 8 bits that a run was trained on; None if it has stored none."""
    with suppress(ValueError):
        stored = read_json(run.path / LEVELS_FILE)
        return Levels.from_plain(stored) if are_levels(stored) else None
    return None


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return the lines that the console shows for a comparison."""
    width = max(map(len, (*comparison.names, "difference")))
    low, high = (100 * bound for bound in comparison.difference_ci95)
    lines = [f"{'':{width}}  accuracy on {comparison.num_images} {comparison.split} images (95 % interval)"]
    for name, accuracy, bounds in zip(comparison.names, comparison.accuracies, comparison.intervals, strict=True):
        lines.append(f"{name:{width}}  {100 * accuracy:5.1f} %  ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %)")
    lines += [
        f"{'difference':{width}}  {100 * comparison.difference:+5.1f}    ({low:+.1f} to {high:+.1f})",
        "",
        f"verdict  {comparison.verdict} ({comparison.evidence})",
    ]
    return lines + _flip_lines(comparison)


def _flip_lines(comparison: Comparison) -> list[str]:
    """Return one line for each image, up to 20, that only one of the runs classifies correctly."""
    if not comparison.flips:
        return []
    first, second = comparison.names
    width = max(map(len, comparison.names))
    lines = [f"flipped  {comparison.only_second} right only in {second}, {comparison.only_first} only in {first}"]
    for flip in comparison.flips[:_MAX_FLIPS]:
        winner, wrong = (second, flip.predicted[0]) if flip.is_won else (first, flip.predicted[1])
        lines.append(f"         {winner:{width}}  {flip.true}, not {wrong}: {flip.path}")
    left_out = len(comparison.flips) - _MAX_FLIPS
    return [*lines, f"         and {left_out} more"] if left_out > 0 else lines
