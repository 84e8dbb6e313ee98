"""Predicts the classes of images with the exported model beside this file; nothing else of the project is needed.

    python predict_onnx.py cat.jpg photos/ 'new/*.png'     one line per image; --json and --topk as for `predict`

    from predict_onnx import Predictor
    for answer in Predictor("model.onnx").predict(["cat.jpg"]):
        ...                                                answer.predicted, answer.confidence, answer.is_withheld

Requires numpy, opencv-python-headless and the runtime of the model: onnxruntime for model.onnx, openvino for model.xml,
torch for model.pt2. Images are prepared exactly as in training; a file for which OpenCV alone cannot guarantee that is
skipped with the reason. B images of a batch, C classes, S side of the square input.
"""

from __future__ import annotations

import argparse
import glob
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from MLPipeline.export.StandaloneReader import Refused, decode, read_bytes, resize

BATCH_SIZE = 8
KEY = "classifier"  # the entry of the model's metadata that describes it, as JSON
SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .avif".split())
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # pixels (B, S, S, 3) uint8 RGB -> outputs by name


class Failure(Exception):  # noqa: N818
    """An error that the user can correct: message and exit code."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Answer:
    """The prediction for one file: classes with probabilities, most probable first; none for an unreadable file."""

    path: str
    top: tuple[tuple[str, float], ...]
    reason: str = ""  # why the file cannot be read
    is_withheld: bool = False  # confidence below the threshold, or an image far from the training images
    is_far: bool = False

    @property
    def predicted(self) -> str:
        """The most probable class, even if the answer is withheld."""
        return self.top[0][0]

    @property
    def confidence(self) -> float:
        """The probability of the most probable class."""
        return self.top[0][1]

    def to_text(self) -> str:
        """Return `cat.jpg  cat 97.3 %  dog 2.1 %`, with a remark in brackets at the end if the answer is withheld."""
        shares = "  ".join(f"{name} {100 * p:.1f} %" for name, p in self.top)
        why = "unlike the training images" if self.is_far else "confidence below the threshold"
        return f"{self.path}  {shares}{f'  (withheld: {why})' if self.is_withheld else ''}"

    def to_json(self) -> str:
        """Return one line of JSON: path, answered, predicted, confidence, top."""
        top = [{"class": name, "confidence": round(p, 6)} for name, p in self.top]
        content = {"predicted": self.predicted, "confidence": round(self.confidence, 6), "top": top}
        return json.dumps({"path": self.path, "answered": not self.is_withheld} | content)


class Predictor:
    """An exported model, ready to predict. `about` is the description stored in it: classes, preprocessing, origin."""

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.network, self.about = open_network(Path(model))
        self.classes: list[str] = self.about["classes"]
        self.image_size: int = self.about["image_size"]

    def predict(self, paths: Iterable[str | os.PathLike[str]], topk: int = 1) -> Iterator[Answer]:
        """Yield one answer per image file, in order, with the `topk` most probable classes."""
        waiting: list[tuple[str, np.ndarray | None, str]] = []
        for path in paths:
            try:
                waiting.append((str(path), self.read(Path(path)), ""))
            except Refused as refusal:
                waiting.append((str(path), None, str(refusal)))
            if len(waiting) == BATCH_SIZE:
                yield from self._answers(waiting, topk)
                waiting = []
        yield from self._answers(waiting, topk)

    def read(self, path: Path) -> np.ndarray:
        """Return the image in the file `path` as the model's input: (S, S, 3) uint8 RGB.

        Raises:
            Refused: it cannot be read, or not exactly as in training.
        """
        levels = {depth: (black, white) for depth, (black, white) in (self.about["levels"] or {}).items()}
        size = self.image_size
        return resize(decode(read_bytes(path), size, levels), (size, size), self.about["fit"])

    def _answers(self, images: Sequence[tuple[str, np.ndarray | None, str]], topk: int) -> Iterator[Answer]:
        pixels = [each for _, each, _ in images if each is not None]
        outputs = self.network(np.stack(pixels)) if pixels else {}
        rows = iter(range(len(pixels)))
        for path, image, reason in images:
            yield Answer(path, (), reason) if image is None else self._answer(path, outputs, next(rows), topk)

    def _answer(self, path: str, outputs: Mapping[str, np.ndarray], row: int, topk: int) -> Answer:
        probabilities = outputs["probabilities"][row]
        order = np.argsort(-probabilities, kind="stable")[:topk]
        top = tuple((self.classes[label], float(probabilities[label])) for label in order)
        rule, limit = self.about["threshold"], self.about["max_distance"]
        is_far = "distance" in outputs and limit is not None and not outputs["distance"][row] <= limit
        is_withheld = rule is not None and bool(is_far or not top[0][1] >= rule["min_confidence"])
        return Answer(path, top, is_withheld=is_withheld, is_far=bool(is_far))


def open_network(model: Path) -> tuple[Network, dict[str, Any]]:
    """Return the network in an exported file, and its description.

    Raises:
        Failure: there is no such file, it is not an exported model, or a package is missing.
    """
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_pt2}
    if not model.is_file() or model.suffix not in openers:
        raise Failure(f"{model}: not an exported model. Give model.onnx, model.xml or model.pt2")
    try:
        network, about = openers[model.suffix](model)
        return network, json.loads(about)
    except (Failure, ImportError):
        raise
    except Exception as error:  # each runtime has errors of its own
        raise Failure(f"{model}: cannot be opened ({str(error).splitlines()[0][:200]}). Export it again") from error


def _open_onnx(model: Path) -> tuple[Network, str]:
    runtime = _package("onnxruntime", "onnxruntime")
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    about = session.get_modelmeta().custom_metadata_map[KEY]
    return lambda pixels: dict(zip(names, session.run(names, {"images": pixels}), strict=True)), about


def _open_openvino(model: Path) -> tuple[Network, str]:
    openvino = _package("openvino", "openvino")
    loaded = openvino.Core().read_model(model)
    about = loaded.get_rt_info([KEY]).astype(str)
    # By default OpenVINO computes in bf16 where the processor can, which changes the answers.
    compiled = openvino.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [each.get_any_name() for each in compiled.outputs]

    def network(pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = compiled(pixels)
        return {name: outputs[name] for name in names}

    return network, about


def _open_pt2(model: Path) -> tuple[Network, str]:
    torch = _package("torch", "torch")
    extra = {KEY: ""}
    program = torch.export.load(model, extra_files=extra).module()
    names = json.loads(extra[KEY])["outputs"]

    def network(pixels: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = program(torch.from_numpy(pixels))
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}

    return network, extra[KEY]


def _package(name: str, wheel: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Failure(f"{name} is missing. pip install {wheel}", 3) from error


def find_images(paths: Sequence[str]) -> list[str]:
    """Return the image files that `paths` name: files, globs, or folders, which are searched recursively.

    Raises:
        Failure: a path does not exist, or there are no images.
    """
    found: dict[str, None] = {}
    for path in paths:
        matches = [path] if os.path.exists(path) else _expand(path)
        if not matches:
            raise Failure(f"{path}: no such file or folder. Give images, folders or quoted globs like 'new/*.jpg'")
        for match in matches:
            found.update(dict.fromkeys(_images_below(match) if os.path.isdir(match) else [match]))
    if not found:
        raise Failure(f"{', '.join(paths)}: no images there. Give images, or a folder that holds some")
    return list(found)


def _expand(pattern: str) -> list[str]:
    """Return the files and folders that match a glob, sorted.

    A part of the path that exists as it is written is not a pattern: `shots [2]/*.png` means the folder `shots [2]`.
    """
    bases = [""]
    for part in Path(pattern).parts:
        bases = [os.path.join(base, name) for base in bases for name in _matches(base, part)]
    return sorted(filter(os.path.lexists, bases))


def _matches(folder: str, part: str) -> list[str]:
    root = folder or os.curdir
    if part == "**":
        return ["", *glob.glob("**", root_dir=root, recursive=True)]
    if os.path.exists(os.path.join(folder, part)):
        return [part]
    return glob.glob(part, root_dir=root) or glob.glob(part.replace("[", "[[]"), root_dir=root)


def _images_below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural_order)
        for name in sorted((name for name in files if not name.startswith(".")), key=_natural_order):
            path = os.path.join(parent, name)
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield path
            else:
                _say(sys.stderr, f"note: skipped {path}: not an image file")


def _natural_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name.casefold())]


def _say(stream: TextIO | None, text: str) -> None:
    """Print one line; control characters, which a file name may contain, are written as escapes."""
    if stream is None:  # it was closed before the program began
        return
    line = _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Print one answer per image; return the exit code.

    0, 2 for wrong paths or no readable image, 3 for a missing package or if not all answers could be printed.
    """
    here = Path(__file__).resolve().parent
    present = [here / name for name in ("model.onnx", "model.xml", "model.pt2") if (here / name).is_file()]
    parser = argparse.ArgumentParser(description="Predicts the classes of images with an exported model.")
    parser.add_argument("images", nargs="+", help="images, folders or globs; - reads names from stdin, one per line")
    parser.add_argument("--model", type=Path, default=(present or [here / "model.onnx"])[0], help="(%(default)s)")
    parser.add_argument("--topk", type=int, default=3, help="number of classes shown per image (3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(argv)
    try:
        paths = _names_from_stdin() if options.images == ["-"] else options.images
        answers = Predictor(options.model).predict(find_images(paths), max(1, options.topk))
        return _print_answers(answers, options.json)
    except Failure as failure:
        _say(sys.stderr, f"error: {failure}")
        return failure.exit_code
    except BrokenPipeError:  # `| head` closed our output: nothing is wrong
        _leave_stdout()
        return 0
    except KeyboardInterrupt:
        return 130


def _names_from_stdin() -> list[str]:
    return [os.fsdecode(name) for name in sys.stdin.buffer.read().split(b"\n") if name]


def _leave_stdout() -> None:
    """Let what Python still holds for stdout, and would write at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_answers(answers: Iterable[Answer], as_json: bool) -> int:
    if sys.stdout is None:
        raise Failure("standard output: closed. Send the output to a file", 3)
    num_answers = 0
    for answer in answers:
        if answer.reason:
            _say(sys.stderr, f"note: skipped {answer.path}: {answer.reason}")
            continue
        num_answers += 1
        _say_answer(answer.to_json() if as_json else answer.to_text())
    if not num_answers:
        raise Failure("none of the images can be read. Give JPEG or PNG images")
    return 0


def _say_answer(text: str) -> None:
    try:
        _say(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk
        _leave_stdout()
        what = f"standard output: not complete ({error.strerror})"
        raise Failure(f"{what}. Free space, or send the output to a file", 3) from error


if __name__ == "__main__":
    sys.exit(main())
