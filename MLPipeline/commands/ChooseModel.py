"""`python Engine.py choose`: compares backbones on your training images, and prints the command that trains the best.

The heads are fitted in closed form on frozen features, and tested out of fold; validation and test images are not read.
"""

from __future__ import annotations

from typing import Any

from MLPipeline.choosing.Backbones import IMAGENET, backbones_at_hand, named_backbones
from MLPipeline.choosing.Choice import CHOICE_FILE, CHOICE_PAGE, CHOICE_TABLE, Choice, write_tables
from MLPipeline.commands.TrainingCommand import training_command
from MLPipeline.Config import Config
from MLPipeline.console.Console import say
from MLPipeline.Models import find_trainable
from MLPipeline.report.ChoicePage import write_choice_page
from MLPipeline.steps.ChooseFirst import choose_backbone, chosen_line, show_choice
from MLPipeline.steps.Prepare import with_data


def run(config: Config) -> None:
    """Print the comparison and the command that trains what was chosen; write `output/choose/`.

    Raises:
        UsageError: `--models` or `--sizes` cannot be used, or no model has its weights here.
        DataError: the images cannot be used.
        ResourceError: no backbone can be tested, or the output cannot be written.
    """
    backbones = named_backbones(config.models, config.sizes) if config.models else backbones_at_hand(config.sizes)
    config = with_data(config)
    choice = choose_backbone(config, backbones, config.minutes)
    show_choice(choice)
    say(chosen_line(choice))
    folder, command = config.output / "choose", command_of(config, choice)
    write_tables(choice, folder)
    write_choice_page(choice, folder, command)
    say(f"saved    {folder}: {CHOICE_PAGE}, {CHOICE_TABLE}, {CHOICE_FILE}")
    say(f"next     {command}")


def command_of(config: Config, choice: Choice) -> str:
    """Return the command that trains the head of the chosen backbone on the images that `config` states."""
    chosen = choice.chosen.backbone
    usual = find_trainable(chosen.model).defaults
    settings: dict[str, Any] = {"model": chosen.model, "image_size": chosen.image_size, "freeze": "backbone"}
    if chosen.weights != IMAGENET:
        settings["weights"] = chosen.weights
    own = {name: usual.get(name) for name in ("image_size", "freeze")}
    return training_command("choose", config, settings, own)
