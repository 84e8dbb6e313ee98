"""`output/NNN-<name>/`: creates the folders of runs, locks them, and finds them by number, name or path."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from MLPipeline.Errors import UsageError, did_you_mean
from MLPipeline.files.AtomicFile import unwritable
from MLPipeline.files.Destination import Reserved
from MLPipeline.files.Json import read_json
from MLPipeline.files.Lock import held
from MLPipeline.files.PlainFile import read_bytes
from MLPipeline.files.PlainValues import is_usable_text

RUNS_TABLE = "runs.csv"
LAUNCH_FILE = "launch.txt"  # the torchrun command that started the run
MODEL_FILE, SETTINGS_FILE, ENVIRONMENT_FILE = "model.pt", "config.json", "environment.json"
METRICS_FILE = "metrics.json"  # written last: a run that has it has finished
_LOCK_TIMEOUT_S = 30.0
_MAX_TEXT_BYTES = 10**6
_NUMBERED = re.compile(r"(\d{3,})-(.+)")
_NAME = re.compile(r"\w[\w .+-]{0,59}")  # with 4 bytes per character: below the 255 that file systems allow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The folder of a run; `number` increases with every run of the output folder."""

    path: Path
    number: int
    name: str
    weights: str = MODEL_FILE  # or the previous checkpoint, if `--run` names that file

    @property
    def model_file(self) -> Path:
        """The checkpoint with the best weights and everything that prediction requires."""
        return self.path / self.weights

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`; empty if the run has not finished, or the file is damaged, which is logged."""
        file = self.path / METRICS_FILE
        if not os.path.lexists(file):
            return {}
        try:
            if isinstance(content := read_json(file), dict):
                return content
            raise ValueError("has no metrics")
        except ValueError as error:
            logger.warning("%s is damaged (%s): the run counts as not finished", file, error)
            return {}


def create_run(output: Path, name: str, data: Path) -> Run:
    """Return a new, empty run folder.

    Raises:
        UsageError: `output` is a file or lies inside the image folder or a run, or `name` is not a plain name.
        ResourceError: the folder cannot be created.
    """
    check_output(output, name, data)
    with locked_output(output):  # another run may be choosing the same number
        number = max((run.number for run in list_runs(output)), default=0) + 1
        path = output / f"{number:03d}-{name}"
        path.mkdir()
    return Run(path, number, name)


def check_output(output: Path, name: str, data: Path) -> None:
    """Check that a run called `name` can be written to `output`.

    Raises:
        UsageError: `output` is a file or lies inside the image folder, or `name` is not a plain name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name}: not a plain name", "Use up to 60 letters, digits, dots and dashes")
    Reserved([data]).check_folder("--output", output)


@contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Lock the folder of `run` against other processes; the lock of a killed process is released.

    Raises:
        ResourceError: another process is writing to the folder, or the folder cannot be written.
    """
    locks = run.path.parent / ".locks"
    with ExitStack() as stack:
        try:
            locks.mkdir(exist_ok=True)
            stack.enter_context(held(locks / run.path.name, run.path, timeout_s=0))
        except OSError as error:
            raise unwritable(run.path, error) from error
        yield


def list_runs(output: Path) -> list[Run]:
    """Return the runs in `output`, oldest first."""
    entries = [each.name for each in os.scandir(output) if each.is_dir()] if output.is_dir() else []
    matches = [match for name in entries if (match := _NUMBERED.fullmatch(name))]
    return sorted((Run(output / m[0], int(m[1]), m[2]) for m in matches), key=lambda run: run.number)


def find_run(output: Path, reference: str | None, needs_model: bool = True) -> Run:
    """Return the run with the number, name or path `reference`; None stands for the newest finished run.

    If several runs have the same name, the newest is returned. A path is that of the run folder or of a model file.
    Without `needs_model`, a folder that contains only the settings is a run as well.

    Raises:
        UsageError: there is no such run.
    """
    runs, flag = list_runs(output), "--run" if needs_model else "--resume"
    if reference is None:
        finished = [run for run in runs if run.metrics and run.model_file.exists()]
        if not finished:
            raise UsageError(f"{output}: no finished run", "Train one: python Engine.py --model resnet50")
        return finished[-1]
    named = [run for run in runs if reference in (str(run.number), f"{run.number:03d}", run.path.name)]
    named = named or [run for run in runs if reference == run.name]
    if named:
        return named[-1]
    required = MODEL_FILE if needs_model else SETTINGS_FILE
    if run := _run_at(Path(reference), required):
        return run
    if os.path.isdir(reference):  # unlike Path.is_dir, never raises
        raise UsageError(f"{flag} {reference}: there is no {required} in it", "Give a run's folder, number or name")
    names = [run.path.name for run in runs]
    raise UsageError(
        f"{flag} {reference}: no such run", did_you_mean(reference, names) if names else f"{output} has no runs"
    )


def find_launched(output: Path, launch: str) -> Run | None:
    """Return the newest run started by the torchrun command `launch`, or None if there is none yet."""
    started = (run for run in reversed(list_runs(output)) if _read(run.path / LAUNCH_FILE) == launch)
    return next(started, None)


def recorded_data(folder: Path) -> Path | None:
    """Return the absolute path of the data folder of the run in `folder`; None if the run did not record it."""
    try:
        data = read_json(folder / ENVIRONMENT_FILE, _MAX_TEXT_BYTES)["data"]
        return Path(data) if isinstance(data, str) and is_usable_text(data) else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> str:
    try:
        return read_bytes(path, _MAX_TEXT_BYTES).decode("utf-8")
    except ValueError:
        return ""


def _run_at(path: Path, required: str) -> Run | None:
    """Return the run whose folder or model file is `path`; a folder must contain the file `required`."""
    # os.path: unlike the methods of Path, it does not raise for names that are too long or contain a null character.
    folder, weights = (path.parent, path.name) if os.path.isfile(path) else (path, MODEL_FILE)
    if not os.path.isfile(path) and not os.path.isfile(folder / required):
        return None
    match = _NUMBERED.fullmatch(folder.resolve().name)
    return Run(folder, int(match[1]) if match else 0, match[2] if match else folder.resolve().name, weights)


@contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Lock `output` against changes by other runs; the lock of a killed run is released."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with held(output / ".runs.lock", output, _LOCK_TIMEOUT_S):
            yield
    except OSError as error:
        raise unwritable(output, error) from error
