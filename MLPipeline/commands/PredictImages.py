"""`python Engine.py predict`: predicts the classes of images; answers go to stdout, everything else to stderr."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.commands.Destinations import answers_table, reserve
from MLPipeline.commands.OpenRun import open_run
from MLPipeline.Config import Config
from MLPipeline.console.Console import is_unread, note, progress, require_complete_stdout, say
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.files.CsvFile import open_csv
from MLPipeline.files.Destination import Destination, Reserved
from MLPipeline.files.FileNames import longest_name, shorten, visible_name
from MLPipeline.files.RunFolder import Run, find_run
from MLPipeline.files.SortedCopies import SortedCopies
from MLPipeline.images.FindImages import find_images
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ReadAhead import no_progress
from MLPipeline.Predict import Answer, ImageClassifier, answer_columns
from MLPipeline.report.Report import oddity_lines
from MLPipeline.scoring.Unknown import differs_from_training

_MIN_CONFIDENCE = 0.5  # for --sort-into if the model has no rule: below it, an answer is more likely wrong than not
_HEAT_QUALITY = 90
_OTHER_BYTES = 20  # of the name of a heat map: its number and its suffix
_HEAT_MAPS = "heatmaps"  # folder in the output folder

Receiver = Callable[[Answer], object]


def run(config: Config) -> None:
    """Print one line per image with its most probable classes; write `--csv`, `--sort-into` and `--heatmap` files.

    Raises:
        UsageError: there are no paths or no such run, or an output lies where nothing may be written.
        DataError: a path does not exist, or there is no readable image.
        ResourceError: an output cannot be written, or not all answers could be printed.
    """
    if not config.paths:
        raise UsageError("predict: no images given", "python Engine.py predict cat.jpg photos/ 'new/*.png'")
    files, skipped = find_images(config.paths, config.follow_links)
    outputs = _check_outputs(config, files)  # before the model is loaded
    opened = open_run(config)
    for each in skipped:
        note(f"skipped {each.path}: {each.reason}")
    ranks.require_same({"images": "\n".join(map(str, files))})
    bar = no_progress if sys.stdout.isatty() else progress  # on a terminal, the answers themselves show the progress
    classifier = ImageClassifier(opened.model, opened.card, config.precision, config.tta)
    mine = files[ranks.dealt]
    answers = ranks.in_order(classifier.stream(mine, config.topk, config.workers, bar, config.heatmap))
    if not ranks.is_first:
        collections.deque(answers, maxlen=0)  # yields nothing, but computes this rank's share
        return
    with _receivers(config, opened.run, opened.card, outputs) as receivers:
        _pass_on(answers, receivers, config, outputs)
    if config.json or not outputs.are_any:
        require_complete_stdout()


@dataclass(frozen=True)
class _Outputs:
    """What the command writes besides its answers on stdout."""

    reserved: Reserved
    table: Destination | None
    are_any: bool


def _check_outputs(config: Config, files: Sequence[Path]) -> _Outputs:
    """Return where to write; raises an error if something would be written over or among images, or into a run.

    Only the table may lie in a folder of images to predict: pictures there would be predicted the next time.
    """
    run = find_run(config.output, config.run)
    reserved = reserve(config, run, config.paths, files)
    if config.sort_into:
        reserved.check_folder("--sort-into", config.sort_into)
    if config.heatmap:
        reserved.check_folder("--output", config.output / _HEAT_MAPS)
    are_any = bool(config.csv or config.sort_into or config.heatmap)
    return _Outputs(reserved, answers_table(config, reserve(config, run, files=files)), are_any)


def _pass_on(answers: Iterable[Answer], receivers: Sequence[Receiver], config: Config, outputs: _Outputs) -> None:
    """Pass each answer to every receiver; report skipped files, and if many images are unlike the training images.

    If the reader of stdout has gone (`| head`) and nothing else is asked for, the rest is not computed.
    """
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
        if is_unread() and not outputs.are_any and ranks.size == 1:
            return
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
def _receivers(config: Config, run: Run, card: ModelCard, outputs: _Outputs) -> Iterator[list[Receiver]]:
    """Yield the functions that process each answer, by the flags; files are complete once the block ends normally."""
    receivers: list[Receiver] = []
    if not (outputs.table and outputs.table.is_stdout):
        receivers.append(lambda answer: say(answer.to_json() if config.json else answer.to_text()))
    if config.sort_into:
        copies = SortedCopies(config.sort_into, card.classes, outputs.reserved)
        receivers.append(lambda answer: copies.add(answer.path, answer.top[0][0] if _is_sure(answer, card) else None))
    if config.heatmap:
        folder = _new_folder(config.output / _HEAT_MAPS, run.path.name)
        numbers = itertools.count(1)
        receivers.append(lambda answer: _write_heat(folder, next(numbers), answer))
    with contextlib.ExitStack() as stack:
        if outputs.table:
            add_row = stack.enter_context(open_csv(outputs.table, answer_columns(card, config.topk)))
            receivers.append(lambda answer: add_row(answer.to_row()))
        yield receivers
    if config.heatmap:
        note(f"heat maps in {folder}")


def _is_sure(answer: Answer, card: ModelCard) -> bool:
    return not answer.is_withheld if card.unknown else answer.confidence >= _MIN_CONFIDENCE


def _new_folder(parent: Path, name: str) -> Path:
    """Return a path in `parent` that does not exist yet: `name`, `name-2`, ..."""
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    return next(parent / name for name in names if not os.path.lexists(parent / name))


def _write_heat(folder: Path, number: int, answer: Answer) -> None:
    """Write the heat map of `answer` as `00001-<name>.jpg`, numbered in the order of the answers."""
    assert answer.heat is not None
    picture = encode_jpeg(answer.heat, _HEAT_QUALITY)
    stem = shorten(visible_name(answer.path.stem), longest_name(folder) - _OTHER_BYTES)
    write_file(folder / f"{number:05d}-{stem}.jpg", lambda file: file.write(picture))
