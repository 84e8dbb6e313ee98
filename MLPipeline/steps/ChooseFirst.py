"""`--model auto` and the verb `choose`: compare the backbones that are here on the training images.

Only training images are read for it. Their features are stored where training looks for them, so that it computes the
rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from MLPipeline.choosing.Backbones import Backbone, backbones_at_hand
from MLPipeline.choosing.Choice import RULE, Choice, Result, write_tables
from MLPipeline.choosing.Prober import Place, Prober
from MLPipeline.choosing.Rounds import compare_backbones
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, resumable_reading, say, without_notes
from MLPipeline.Device import choose_device
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.Cache import default_limit_gb
from MLPipeline.files.RunFolder import Run
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.Models import find_trainable
from MLPipeline.report.ChoicePage import write_choice_page
from MLPipeline.steps.Prepare import list_images, preprocessing_of, split

AUTO = "auto"  # the name of a model that stands for the one chosen
_SHARE_OF_TIME = 0.25  # of `--time`, at most
_TITLES = ("model", "pixels", "accuracy", "difference (95 % interval)", "ms/image", "MB", "images")
_MAX_LEFT_OUT = 10  # that are listed on the console


def choose_first(config: Config) -> tuple[Config, Choice | None]:
    """Return the settings with the chosen model in place of `auto`, and what it was chosen from; else `config`, None.

    Raises:
        UsageError: there are several ranks, or `--weights` are given for a model that is not known yet.
        DataError: the images cannot be used.
        ResourceError: no backbone can be tested.
    """
    if config.model != AUTO:
        return config, None
    if ranks.size > 1:
        what = "--model auto: the models are compared in a single process, not under torchrun"
        raise UsageError(what, "Run python Engine.py choose first, and name the model here")
    if config.weights not in ("auto", "imagenet"):
        what = f"--weights {config.weights}: with --model auto, models are compared by their ImageNet weights"
        raise UsageError(what, "Leave it out, name the --model, or run choose --models NAME=FILE")
    backbones = backbones_at_hand(str(config.image_size) if config.image_size else None)
    minutes = min(config.minutes, _SHARE_OF_TIME * config.time) if config.time else config.minutes
    with without_notes():  # about the images: training repeats them
        choice = choose_backbone(replace(config, folds=None, target_precision=None), backbones, minutes)
    show_choice(choice)
    say()
    return chosen_settings(config, choice), choice


def chosen_settings(config: Config, choice: Choice) -> Config:
    """Return the settings that train what was chosen: its head, unless they say what else is trained."""
    chosen = choice.chosen.backbone
    usual = find_trainable(chosen.model).defaults["freeze"]
    is_stated = config.freeze is not None or config.unfreeze_after is not None or config.time is not None
    freeze = config.freeze if is_stated or usual == "backbone" else "backbone"
    return replace(config, model=chosen.model, freeze=freeze)


def choose_backbone(config: Config, backbones: Sequence[Backbone], minutes: float) -> Choice:
    """Return the comparison of `backbones` on the training images that `config` states.

    The time counts from when the images were inspected, which training does as well.

    Raises:
        DataError: the images cannot be used.
        ResourceError: no backbone can be tested, or the cache cannot be written.
    """
    device, index = choose_device(config.device), list_images(config)
    cache, limit = config.output / "cache", config.cache_limit
    with resumable_reading():
        inspection = inspect_images(index, cache, decoding_threads(config.workers), config.verify, progress)
    index = split(index, inspection, config)
    preprocessing = preprocessing_of(config, index, inspection)
    keys = inspection.row_keys(preprocessing.levels)
    limit = default_limit_gb() if limit is None else limit
    precision = "auto" if config.precision == "int8" else config.precision  # only what was chosen is quantized
    place = Place(cache, device, precision, config.workers, limit)
    prober = Prober(index, keys, preprocessing, place, config.seed, progress)
    number = len(prober.positions)
    say(f"choose   {len(backbones)} backbones on {number:,} training images, in up to {minutes:g} minutes")
    return compare_backbones(backbones, prober, minutes, number)


def show_choice(choice: Choice) -> None:
    """Print the table, what was left out, and the rule."""
    for each in choice.left_out[:_MAX_LEFT_OUT]:
        note(f"{each.name} is left out: {each.reason}")
    if len(choice.left_out) > _MAX_LEFT_OUT:
        note(f"{len(choice.left_out) - _MAX_LEFT_OUT} more are left out; choice.json lists them")
    for line in table_lines(choice):
        say(line)


def keep_choice(choice: Choice | None, run: Run, config: Config) -> list[str]:
    """Write why the model was chosen to the folder of the run; return the lines for the console, which its log keeps.

    Raises:
        ResourceError: the folder cannot be written.
    """
    if choice is None:
        return []
    if ranks.is_first:
        write_tables(choice, run.path)
        write_choice_page(choice, run.path)
    lines = [chosen_line(choice)]
    if config.folds:
        lines.append("         on images that the folds test, too, so their accuracy is a little optimistic")
    return lines


def chosen_line(choice: Choice) -> str:
    """Return the line that says what was chosen, and why."""
    return f"chosen   {choice.chosen.backbone.to_text()}: {choice.reason}"


def table_lines(choice: Choice) -> list[str]:
    """Return the table of the backbones, and the rule by which one is chosen."""
    rows = [_TITLES, *map(_cells, choice.results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, 3) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return ["", *lines, "", f"rule     {RULE}"]


def _cells(result: Result) -> tuple[str, ...]:
    difference = "best"
    if found := result.difference:
        difference = f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return (
        result.backbone.model,
        str(result.backbone.image_size),
        f"{100 * result.accuracy:.1f} %",
        difference,
        f"{1000 * result.cost.seconds_per_image:.1f}",
        f"{result.cost.megabytes:.1f}",
        f"{result.num_images:,}",
    )
