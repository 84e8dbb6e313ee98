"""The formats of exported models: which packages each needs, and how its file is written.

A format is added by a row in `FORMATS` and an opener in StandalonePredictor.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Errors import ResourceError
from MLPipeline.export.Network import KEY, ExportedNetwork, example_input
from MLPipeline.export.Onnx import not_exportable, onnx_bytes
from MLPipeline.export.OnnxGraph import quiet
from MLPipeline.files.AtomicFile import unwritable, write_file


@dataclass(frozen=True)
class Format:
    """One value of `--format`."""

    file: str  # name of the model's file
    packages: tuple[str, ...]  # that are needed to write it and to check it
    save_onnx: Callable[[bytes, str, Path], None] | None  # (ONNX file, description, file); None: not made from ONNX


def require_packages(name: str) -> None:
    """Check that the packages that a format needs can be imported.

    Raises:
        ResourceError: one is missing.
    """
    if missing := [package for package in FORMATS[name].packages if not _is_installed(package)]:
        what = f"export --format {name}: needs {' and '.join(missing)}"
        raise ResourceError(what, f"Run pip install {' '.join(FORMATS[name].packages)}")


def _is_installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def write_model(name: str, network: ExportedNetwork, card: ModelCard, about: str, folder: Path) -> bytes | None:
    """Write `network` to `folder` in the format called `name`; return the ONNX file that it was made from, if any.

    Raises:
        UsageError: the network has an operation that the format lacks.
        ResourceError: the disk is full, or the folder cannot be written.
    """
    chosen = FORMATS[name]
    if chosen.save_onnx is None:
        _write_pt2(network, card, about, folder / chosen.file)
        return None
    content = onnx_bytes(network, card, about)
    chosen.save_onnx(content, about, folder / chosen.file)
    return content


def _save_onnx(content: bytes, about: str, path: Path) -> None:
    write_file(path, lambda file: file.write(content))


def _save_openvino(content: bytes, about: str, path: Path) -> None:
    """Write model.xml and model.bin, with the weights as they are in the ONNX file."""
    import openvino

    model = openvino.Core().read_model(content, b"")
    model.set_rt_info(about, [KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise unwritable(path, OSError(str(error).strip().splitlines()[-1])) from error


def _write_pt2(network: ExportedNetwork, card: ModelCard, about: str, path: Path) -> None:
    try:
        with quiet(), torch.no_grad():
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(network.eval(), (example_input(card),), dynamic_shapes=shapes)
    except Exception as error:  # the exporter has errors of its own for every step
        raise not_exportable("pt2", card.model, error) from error
    content = io.BytesIO()  # torch ends the process where a file that it writes to itself cannot be written
    with quiet():
        torch.export.save(program, content, extra_files={KEY: about})
    write_file(path, lambda file: file.write(content.getbuffer()))


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), _save_onnx),
    "openvino": Format("model.xml", ("onnx", "onnxscript", "onnxruntime", "openvino"), _save_openvino),
    "pt2": Format("model.pt2", (), None),
}
