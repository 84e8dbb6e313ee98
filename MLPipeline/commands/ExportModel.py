"""`python Engine.py export`: writes the model of a run for use elsewhere, once it is shown to answer as `predict`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from MLPipeline.commands.OpenRun import OpenedRun, open_run
from MLPipeline.commands.RunImages import recorded_folders
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, say
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.Errors import DataError
from MLPipeline.export.ExportFolder import REPORT_FILE, export_path, new_export
from MLPipeline.export.Formats import FORMATS, require_packages
from MLPipeline.export.Network import ExportedNetwork, describe
from MLPipeline.export.Origin import origin_of
from MLPipeline.export.Parity import Parity, answers_of_predict, answers_of_script, compare, require_equal
from MLPipeline.export.Script import standalone_script
from MLPipeline.export.Speed import BATCH_SIZE, Speed, measure
from MLPipeline.export.StandalonePredictor import open_network
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.frozen.FastForward import drawn_images
from MLPipeline.images.RunSplits import OwnImages, read_splits
from MLPipeline.images.ScanFolders import TEST

MAX_COMPARED = 200  # images
_NUM_DRAWN, _QUALITY = 16, 95
_CARD_FILE = "MODEL_CARD.md"


def run(config: Config) -> None:
    """Write `output/export/<run>-<format>/`; print how it compares with `predict` and how fast it is.

    Raises:
        UsageError: there is no such run, or the model has an operation that the format lacks.
        ResourceError: a package is missing, or the folder cannot be written.
        GateMissedError: the exported model answers differently from `predict`.
    """
    require_packages(config.format)
    opened = open_run(replace(config, device="cpu"))
    card = opened.card
    path = export_path(config.output, f"{opened.run.path.resolve().name}-{config.format}")
    pixels = f"{card.image_size}x{card.image_size} pixels"
    say(f"export   {card.model} as {config.format}: {len(card.classes)} classes, {pixels}")
    with new_export(path) as folder:
        network = ExportedNetwork(opened.model, card).eval()
        _write_files(network, opened, config.format, folder)
        parity = _check(opened, config, folder)
        speeds = _measure(network, opened, folder / FORMATS[config.format].file)
        report = {"parity": asdict(parity), "speed": {name: asdict(speed) for name, speed in speeds.items()}}
        write_text(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    say(f"saved    {path}")
    say(f"next     python {path / f'predict_{config.format}.py'} IMAGE_OR_FOLDER")


def _write_files(network: ExportedNetwork, opened: OpenedRun, format_name: str, folder: Path) -> None:
    """Write the model, the script, the names of the classes and, if the run has one, its model card."""
    card, chosen = opened.card, FORMATS[format_name]
    about = describe(network, card, origin_of(opened.run.model_file, card, chosen.packages))
    chosen.write(network, card, about, folder / chosen.file)
    write_text(folder / f"predict_{format_name}.py", standalone_script(format_name))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in card.classes))
    if (opened.run.path / _CARD_FILE).is_file():
        shutil.copyfile(opened.run.path / _CARD_FILE, folder / _CARD_FILE)


def _check(opened: OpenedRun, config: Config, folder: Path) -> Parity:
    """Return how the script's answers differ from those of `predict`; print it, with the difference of the precisions.

    Raises:
        GateMissedError: they differ by more than rounding.
    """
    with ExitStack() as stack:
        files, kind = _test_images(opened), "test images"
        if not files:
            note(f"the test images of {opened.run.path} are gone: the answers are compared on generated images")
            drawn = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files, kind = _drawn_files(drawn, opened.card.image_size), "generated images"
        reference = answers_of_predict(opened.model, opened.card, files, "fp32", config.workers)
        found = answers_of_script(folder / f"predict_{config.format}.py", opened.card, files)
        parity = compare(reference, found)
        require_equal(parity, f"the {config.format} model")
        own = answers_of_predict(opened.model, opened.card, files, config.precision, config.workers)
    if parity.num_refused:
        note(f"the script skips {parity.num_refused} of {len(reference.probabilities)} images that predict reads")
    say(f"parity   {parity.to_text(kind)} of those of predict --precision fp32")
    difference = compare(own, found)
    if difference.max_difference > parity.max_difference:
        say(f"         predict here: {difference.to_text(kind)}")
    return parity


def _test_images(opened: OpenedRun) -> list[Path]:
    """Return up to `MAX_COMPARED` test images of the run, evenly spaced; none if they are gone."""
    own = own_images(opened, TEST)
    if own is None or not len(own.index):
        return []
    chosen = np.unique(np.linspace(0, len(own.index) - 1, MAX_COMPARED).round().astype(int))
    paths = [own.index.path(int(position)).resolve() for position in chosen]
    return [path for path in paths if "\n" not in str(path)]  # the script reads one name per line


def own_images(opened: OpenedRun, split: int) -> OwnImages | None:
    """Return the images of a split of the run; None if its folder or its list of images is gone."""
    root = next((folder for folder in recorded_folders(opened) if folder.is_dir()), None)
    with suppress(DataError):
        return (
            None if root is None else read_splits(opened.run.path / "splits.csv", opened.card.classes).find(root, split)
        )
    return None


def _drawn_files(folder: Path, image_size: int) -> list[Path]:
    """Write generated images, which look like rough photographs, and return their paths."""
    paths = [folder / f"{number}.jpg" for number in range(_NUM_DRAWN)]
    for path, image in zip(paths, drawn_images(_NUM_DRAWN, 2 * image_size), strict=True):
        path.write_bytes(encode_jpeg(image.permute(1, 2, 0).contiguous().numpy(), _QUALITY))
    return paths


def _measure(network: ExportedNetwork, opened: OpenedRun, file: Path) -> Mapping[str, Speed]:
    """Return the speed of the model in torch and as exported; print both side by side."""
    exported, _ = open_network(file)

    def in_torch(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(pixels))

    speeds = measure({"torch": in_torch, file.name: exported}, opened.card.image_size)
    sizes = {"torch": opened.run.model_file.stat().st_size, file.name: _size_of(file)}
    for name, speed in speeds.items():
        say(
            f"speed    {name:<11}{sizes[name] / 2**20:8.1f} MB {speed.one_image_ms:8.1f} ms for one image "
            f"{speed.images_per_s:8.0f} images/s in batches of {BATCH_SIZE}"
        )
    return speeds


def _size_of(file: Path) -> int:
    """Return the bytes of a model file and of the file of weights beside it, if there is one."""
    return sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file())
