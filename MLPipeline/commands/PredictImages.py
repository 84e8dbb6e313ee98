"""`python Engine.py predict`: names the class of images; answers on stdout, everything else on stderr."""

from __future__ import annotations

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.commands.Console import note, progress, say
from MLPipeline.Config import Config
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
    answers = []
    for answer in predict(model.to(device), card, files, config.topk, config.precision, config.workers, progress):
        answers.append(answer)
        say(answer.to_json() if config.json else answer.to_text())
    if config.csv:
        write_csv(answers_table(answers), config.csv)
    unread = sum(bool(answer.reason) for answer in answers)
    if unread == len(answers):
        raise DataError(f"{files[0]}: {answers[0].reason}; no file is an image", "Give JPEG or PNG images")
    if unread:
        note(f"{unread} of {len(answers)} files could not be read")
