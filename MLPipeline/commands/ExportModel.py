"""`python Engine.py export`: writes the model of a run for use elsewhere, once it is shown to answer as `predict`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.commands.Destinations import reserve
from MLPipeline.commands.ExportImages import drawn_files, files_to_compare, labelled_pixels
from MLPipeline.commands.OpenRun import OpenedRun, open_run
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, say
from MLPipeline.Device import fast_dtypes
from MLPipeline.Errors import GateMissedError, UsageError, one_line
from MLPipeline.export.ExportFolder import REPORT_FILE, export_path, new_export
from MLPipeline.export.Formats import FORMATS, require_packages, write_model
from MLPipeline.export.Network import ExportedNetwork, describe
from MLPipeline.export.Origin import origin_of
from MLPipeline.export.Parity import Answers, Parity, answers_of_predict, answers_of_script, compare, require_equal
from MLPipeline.export.Script import standalone_script
from MLPipeline.export.Speed import BATCH_SIZE, in_torch, measure
from MLPipeline.export.StandalonePredictor import open_network
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.files.Json import dump_json
from MLPipeline.files.RunFolder import find_run
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL

if TYPE_CHECKING:
    from MLPipeline.export.Int8 import Quantized

_NUM_CALIBRATED, _MAX_SCORED = 128, 1000
_MAX_LOST, _FEW_IMAGES = 0.01, 2.5  # of the accuracy, and that many images, by another library than onnxruntime
_CARD_FILE = "MODEL_CARD.md"


def run(config: Config) -> None:
    """Write `output/export/<run>-<format>/`; print how it compares with `predict` and how fast it is.

    Raises:
        UsageError: there is no such run, `--output` lies inside the images or a run, or the model has an operation that
            the format lacks.
        ResourceError: a package is missing, or the folder cannot be written.
        GateMissedError: the exported model answers differently from `predict`, or `--int8` loses accuracy.
    """
    if config.int8 and FORMATS[config.format].save_onnx is None:
        raise UsageError(f"--int8: not for --format {config.format}", "Use --format onnx or openvino")
    require_packages(config.format)
    reserve(config, find_run(config.output, config.run)).check_folder("--output", config.output)
    opened = open_run(replace(config, device="cpu"))
    if opened.model.quantized and not config.int8:
        shift = opened.model.quantized.shift
        moved = f": {shift.to_text()}" if shift else ""
        note(f"the model was trained on features in 8 bits, and is exported in fp32{moved}; --int8 exports 8 bits")
    card = opened.card
    pixels = f"{card.image_size}x{card.image_size} pixels"
    name = f"{config.format}{'-int8' if config.int8 else ''}"
    path = export_path(config.output, f"{opened.run.path.resolve().name}-{name}")
    say(f"export   {card.model} as {name}: {len(card.classes)} classes, {pixels}")
    with new_export(path) as folder:
        report = _export(opened, config, folder)
        write_text(folder / REPORT_FILE, dump_json(report, indent=2) + "\n")
    say(f"saved    {path}")
    say(f"next     python {path / _script_name(config)} IMAGE_OR_FOLDER")


def _export(opened: OpenedRun, config: Config, folder: Path) -> dict[str, Any]:
    """Write all files of the export but its report, which is returned."""
    chosen, network = FORMATS[config.format], ExportedNetwork(opened.model, opened.card).eval()
    about = describe(network, opened.card, origin_of(opened.run.model_file, opened.card, chosen.packages))
    content = write_model(config.format, network, opened.card, about, folder)
    write_text(folder / _script_name(config), standalone_script(config.format))
    write_text(folder / "classes.txt", "".join(f"{one_line(name)}\n" for name in opened.card.classes))
    if (opened.run.path / _CARD_FILE).is_file():
        shutil.copyfile(opened.run.path / _CARD_FILE, folder / _CARD_FILE)
    with tempfile.TemporaryDirectory() as aside:
        comparison = _compare(opened, config, folder, Path(aside))
        report: dict[str, Any] = {"parity": comparison.report}
        forms = {chosen.file: folder / chosen.file}
        if config.int8:
            forms = {"fp32": _move(folder / chosen.file, Path(aside)), "int8": folder / chosen.file}
            assert content is not None and chosen.save_onnx is not None
            quantized, found = _quantize(opened, config, content)
            chosen.save_onnx(quantized.content, about, folder / chosen.file)
            again = _compare_int8(opened, config, comparison)
            if config.format != "onnx":
                found |= {config.format: _score_as_saved(opened, config, content, folder / chosen.file)}
            report |= {"int8": found | {"script": asdict(again)}}
        report |= {"speed": _measure(opened, forms)}
    return report


@dataclass(frozen=True)
class _Comparison:
    """The images on which the script is compared with `predict`, and the answers that it must give."""

    files: list[Path]
    kind: str
    reference: Answers
    script: Path
    card: ModelCard
    report: dict[str, Any]

    def answers(self) -> Answers:
        """Return what the script answers now."""
        return answers_of_script(self.script, self.card, self.files)


def _compare(opened: OpenedRun, config: Config, folder: Path, aside: Path) -> _Comparison:
    """Return, and print, how the answers of the script differ from those of `predict`.

    Raises:
        GateMissedError: they differ by more than rounding.
    """
    files, kind, script = files_to_compare(opened), "test images", folder / _script_name(config)
    if not files:
        note(f"the test images of {opened.run.path} are gone: the answers are compared on generated images")
        files, kind = drawn_files(aside, opened.card.image_size), "generated images"
    reference = answers_of_predict(opened.model, opened.card, files, "fp32", config.workers)
    found = answers_of_script(script, opened.card, files)
    parity = compare(reference, found)
    require_equal(parity, f"the {config.format} model")
    if parity.num_refused:
        note(f"the script skips {parity.num_refused} of {len(reference.probabilities)} images that predict reads")
    say(f"parity   {parity.to_text(kind)} of those of predict --precision fp32")
    report = {"fp32": asdict(parity)}
    if (fastest := fast_dtypes(opened.model.mean.device)[0]) != torch.float32:
        own = compare(answers_of_predict(opened.model, opened.card, files, "auto", config.workers), found)
        say(f"         {own.to_text(kind)} of those of predict here, in {fastest}")
        report |= {"auto": asdict(own)}
    return _Comparison(files, kind, reference, script, opened.card, report)


def _compare_int8(opened: OpenedRun, config: Config, comparison: _Comparison) -> Parity:
    """Return, and print, how the script answers in 8 bits, beside `predict` in 8 bits if the model was trained so."""
    found = comparison.answers()
    again = compare(comparison.reference, found)
    say(f"         {again.to_text(comparison.kind)} of those of fp32")
    if opened.model.quantized:
        own = compare(answers_of_predict(opened.model, opened.card, comparison.files, "int8", config.workers), found)
        say(f"         {own.to_text(comparison.kind)} of those of predict, which computes in 8 bits too, by torch")
    return again


def _quantize(opened: OpenedRun, config: Config, content: bytes) -> tuple[Quantized, dict[str, Any]]:
    """Return the model in 8 bits, and its accuracy on validation and test images, which is printed.

    Raises:
        DataError: the images of the run are gone.
        UsageError: the model has a single layer before its head.
        GateMissedError: it loses more than a point of validation accuracy, which is no chance.
    """
    # These need the packages.
    from MLPipeline.export.Int8 import compare_accuracy, has_layers_for_int8, quantize
    from MLPipeline.export.Quantizer import run_onnx

    if not has_layers_for_int8(content):
        what = f"--int8: {opened.card.model} has no layers for it: the first one and the head stay in fp32"
        raise UsageError(what, "Export without --int8")

    validation = labelled_pixels(opened, VAL, _MAX_SCORED, config.workers)
    calibration = labelled_pixels(opened, TRAIN, _NUM_CALIBRATED, config.workers).pixels
    quantized = quantize(content, calibration, validation)
    if quantized.drop.is_too_large:
        what = f"--int8: costs validation accuracy: {quantized.drop.to_text()}"
        raise GateMissedError(what, "Nothing was exported; export without --int8")
    number = f"{quantized.num_int8} of {quantized.num_int8 + quantized.num_fp32} layers in 8 bits"
    say(f"int8     {number}, calibrated on {len(calibration)} training images ({quantized.method})")
    say(f"         validation accuracy {quantized.drop.to_text()}")
    test = labelled_pixels(opened, TEST, _MAX_SCORED, config.workers)
    first, second = (run_onnx(each, test.pixels, ["probabilities"])[0] for each in (content, quantized.content))
    drop = compare_accuracy(first, second, test.labels)
    say(f"         test accuracy {drop.to_text()}")
    report = {"validation": asdict(quantized.drop), "test": asdict(drop), "cosine": quantized.cosine}
    return quantized, report | {"calibration": quantized.method, "layers": [quantized.num_int8, quantized.num_fp32]}


def _score_as_saved(opened: OpenedRun, config: Config, content: bytes, file: Path) -> dict[str, Any]:
    """Return the validation accuracy of 8 bits as another library than onnxruntime computes them, which is printed.

    OpenVINO 2026.4 rounds EfficientNet-Lite0 differently on some processors: 8 % of its answers are others. The network
    has been found good enough, so what is lost here is no chance of these images, unless it is one or two of them.

    Raises:
        GateMissedError: it is lower by more than a point.
    """
    from MLPipeline.export.Int8 import compare_accuracy
    from MLPipeline.export.Quantizer import run_onnx

    validation, network = labelled_pixels(opened, VAL, _MAX_SCORED, config.workers), open_network(file)[0]
    batches = np.array_split(validation.pixels, -(-len(validation.pixels) // BATCH_SIZE))
    found = np.concatenate([network(batch)["probabilities"] for batch in batches])
    (exact,) = run_onnx(content, validation.pixels, ["probabilities"])
    drop = compare_accuracy(exact, found, validation.labels)
    lost = drop.fp32 - drop.int8
    if lost > _MAX_LOST and lost * drop.num_images > _FEW_IMAGES:
        what = f"--int8: costs validation accuracy with {config.format} on this processor: {drop.to_text()}"
        raise GateMissedError(what, "Nothing was exported; give --format onnx, or leave out --int8")
    say(f"         with {config.format} here, validation accuracy {drop.to_text()}")
    return asdict(drop)


def _measure(opened: OpenedRun, forms: Mapping[str, Path]) -> dict[str, Any]:
    """Return the speed and the size of the model in torch and as exported, printed side by side."""
    runs = {"torch": in_torch(opened.model, opened.card.image_size)}
    runs |= {form: open_network(file)[0] for form, file in forms.items()}
    sizes = {"torch": opened.run.model_file.stat().st_size} | {form: _size(file) for form, file in forms.items()}
    speeds = measure(runs, opened.card.image_size)
    for form, speed in speeds.items():
        say(
            f"speed    {form:<11}{sizes[form] / 2**20:8.1f} MB {speed.one_image_ms:8.1f} ms for one image "
            f"{speed.images_per_s:8.0f} images/s in batches of {BATCH_SIZE}"
        )
    return {form: asdict(speed) | {"bytes": sizes[form]} for form, speed in speeds.items()}


def _script_name(config: Config) -> str:
    return f"predict_{config.format}.py"


def _size(file: Path) -> int:
    """Return the bytes of a model file and of the file of weights beside it, if there is one."""
    return sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file())


def _move(file: Path, folder: Path) -> Path:
    """Move a model file, and the file of weights beside it, to `folder`; return its new path."""
    for each in (file.with_suffix(".bin"), file):
        if each.is_file():
            shutil.move(each, folder / each.name)
    return folder / file.name
