"""`python Engine.py predict`: predicts the classes of images; answers go to stdout, everything else to stderr."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.commands.OpenRun import named_images, open_run
from MLPipeline.Config import DEFAULT_DATA, Config, read_settings
from MLPipeline.console.Console import note, progress, say
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.CsvFile import open_csv
from MLPipeline.files.RunFolder import Run, recorded_data
from MLPipeline.files.SortedCopies import SortedCopies
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ReadAhead import no_progress
from MLPipeline.Predict import Answer, answer_columns, predict
from MLPipeline.report.Report import oddity_lines
from MLPipeline.scoring.Unknown import differs_from_training

_MIN_CONFIDENCE = 0.5  # for --sort-into if the model has no rule: below it, an answer is more likely wrong than not
_HEAT_QUALITY = 90
_MAX_STEM = 200  # bytes of a file name, which may have up to 255

Receiver = Callable[[Answer], object]


def run(config: Config) -> None:
    """Print one line per image with its most probable classes; write `--csv`, `--sort-into` and `--heatmap` files.

    Raises:
        UsageError: there are no paths or no such run, or `--sort-into` lies inside an image folder.
        DataError: a path does not exist, or there is no readable image.
    """
    if not config.paths:
        raise UsageError("predict: no images given", "python Engine.py predict cat.jpg photos/ 'new/*.png'")
    opened = open_run(config)
    run, card = opened.run, opened.card
    mine = named_images(config)[ranks.dealt]
    bar = no_progress if sys.stdout.isatty() else progress  # on a terminal, the answers themselves show the progress
    answers = ranks.in_order(
        predict(opened.model, card, mine, config.topk, config.precision, config.workers, bar, config.heatmap)
    )
    if not ranks.is_first:
        collections.deque(answers, maxlen=0)  # yields nothing, but computes this rank's share
        return
    with _receivers(config, run, card) as receivers:
        _pass_on(answers, receivers, config)


def _pass_on(answers: Iterable[Answer], receivers: Sequence[Receiver], config: Config) -> None:
    """Pass each answer to every receiver; report skipped files, and if many images are unlike the training images."""
    num_answers, num_far = 0, 0
    unusual: list[Skipped] = []
    for answer in answers:
        if answer.reason:
            note(f"skipped {answer.path}: {answer.reason}")
            continue
        num_answers += 1
        num_far += answer.is_far
        if answer.note:
            unusual.append(Skipped(str(answer.path), answer.note))
        for receive in receivers:
            receive(answer)
    for line in oddity_lines(unusual):
        note(line)
    if not num_answers:
        paths = ", ".join(map(str, config.paths))
        raise DataError(f"{paths}: none of the images can be read", "Give JPEG or PNG images")
    if differs_from_training(num_far, num_answers):
        note(
            f"{num_far} of {num_answers} images look unlike those the model was trained on: "
            "expect a lower accuracy than on its test images"
        )


@contextlib.contextmanager
def _receivers(config: Config, run: Run, card: ModelCard) -> Iterator[list[Receiver]]:
    """Yield the functions that process each answer, by the flags; files are complete once the block ends normally."""
    receivers: list[Receiver] = [lambda answer: say(answer.to_json() if config.json else answer.to_text())]
    if config.sort_into:
        copies = SortedCopies(config.sort_into, card.classes, _protected(config, run))
        receivers.append(lambda answer: copies.add(answer.path, answer.top[0][0] if _is_sure(answer, card) else None))
    if config.heatmap:
        folder = _new_folder(config.output / "heatmaps", run.path.name)
        numbers = itertools.count(1)
        receivers.append(lambda answer: _write_heat(folder, next(numbers), answer))
    with contextlib.ExitStack() as stack:
        if config.csv:
            add_row = stack.enter_context(open_csv(config.csv, answer_columns(card, config.topk)))
            receivers.append(lambda answer: add_row(answer.to_row()))
        yield receivers
    if config.heatmap:
        note(f"heat maps in {folder}")


def _is_sure(answer: Answer, card: ModelCard) -> bool:
    return not answer.is_withheld if card.unknown else answer.confidence >= _MIN_CONFIDENCE


def _protected(config: Config, run: Run) -> list[Path]:
    """Return the folders that must not receive copies: those of the training images, and the folders to predict."""
    folders = [path for path in config.paths if os.path.isdir(path)]
    with contextlib.suppress(UsageError):  # a single model file has no settings
        folders.append(Path(read_settings(run.path / "config.json").get("data", DEFAULT_DATA)))
    folders += [recorded] if (recorded := recorded_data(run.path)) else []
    return [DEFAULT_DATA, *folders]


def _new_folder(parent: Path, name: str) -> Path:
    """Return a path in `parent` that does not exist yet: `name`, `name-2`, ..."""
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(parent / name for name in names if not os.path.lexists(parent / name))


def _write_heat(folder: Path, number: int, answer: Answer) -> None:
    """Write the heat map of `answer` as `00001-<name>.jpg`, numbered in the order of the answers."""
    stem = os.fsdecode(os.fsencode(answer.path.stem)[:_MAX_STEM])
    assert answer.heat is not None
    picture = encode_jpeg(answer.heat, _HEAT_QUALITY)
    write_file(folder / f"{number:05d}-{stem}.jpg", lambda file: file.write(picture))
