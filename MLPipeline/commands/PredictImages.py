"""`python Engine.py predict`: names the class of images; answers on stdout, everything else on stderr."""

from __future__ import annotations

import sys

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.commands.Console import note, progress, say
from MLPipeline.Config import Config
from MLPipeline.CreateDataset import no_progress
from MLPipeline.Device import choose_device
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.files.RunFolder import find_run
from MLPipeline.files.SafeCsv import write_csv
from MLPipeline.Predict import answers_table, find_images, predict


def predict_images(config: Config) -> None:
    """Print one line per image with its likeliest classes, and write them to `--csv`.

    Raises:
        UsageError: no paths, or no such run.
        DataError: a path does not exist, or not one file is an image.
    """
    if not config.paths:
        raise UsageError("predict: no images named", "python Engine.py predict cat.jpg photos/ 'new/*.png'")
    run = find_run(config.output, config.run)
    model, card = load_checkpoint(run.model_file)
    device = choose_device(config.device)
    files, skipped = find_images(config.paths, config.follow_links)
    note(f"using {run.model_file}")
    for each in skipped:
        note(f"skipped {each.path}: {each.reason}")
    bar = no_progress if sys.stdout.isatty() else progress  # on a terminal the answers themselves show it
    table, num_answers = [], 0
    for answer in predict(model.to(device), card, files, config.topk, config.precision, config.workers, bar):
        if answer.reason:
            note(f"skipped {answer.path}: {answer.reason}")
            continue
        num_answers += 1
        say(answer.to_json() if config.json else answer.to_text())
        if config.csv:  # else none is kept: a folder may hold any number
            table.append(answer)
    if not num_answers:
        paths = ", ".join(map(str, config.paths))
        raise DataError(f"{paths}: not one image that can be read", "Give JPEG or PNG images")
    if config.csv:
        write_csv(answers_table(table), config.csv)
