"""Row 102 of the fault matrix: a lack of memory is said, with what helps, wherever it arises."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from MLPipeline.files import Machine
from MLPipeline.files.TensorFile import load_file
from MLPipeline.steps import Prepare
from MLPipeline.training.TrainState import TrainState
from tests.support.harness import SMALL, refuse, succeed
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]
MB = 2**20
NO_MEMORY = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 3000000000 bytes"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("memory") / "Data", {"cat": 10, "dog": 10})


@pytest.fixture(scope="module")
def output(data: Path) -> Path:
    succeed([*SMALL, "--data", data, "--output", data.parent / "output"])
    return data.parent / "output"


def failing(*_: object, **__: object) -> None:
    raise NO_MEMORY


# Processes of their own, because the limit is one of the process; they end early, while they import.
@pytest.mark.parametrize("megabytes", [60, 400, 1000])
def test_102_memory_short_while_libraries_are_loaded(tmp_path: Path, data: Path, megabytes: int) -> None:
    """Under `ulimit -v` a command ends with exit code 3 and one line, instead of a traceback or a crash."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * MB, megabytes * MB))

    command = [sys.executable, ROOT / "Engine.py", *SMALL, "--data", data, "--output", tmp_path]
    ended = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: out of memory") and "aise the" in ended.stderr


def test_102_a_container_without_memory_for_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit counts as the memory of the machine; too small a one is refused before anything is loaded."""
    monkeypatch.setattr(Machine, "container_memory", lambda: 100 * MB)
    said = "out of memory: the container has 100 MB, of which the libraries need 150. Give the container more memory"
    refuse(["runs"], 3, said)


def test_102_memory_short_while_a_model_is_built(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is a smaller model, and the error says how much memory was requested."""
    monkeypatch.setattr(Prepare, "build_and_try", failing)
    said = (
        "out of memory while the model was built: 3 GB were requested. Use a smaller --model, or close other programs"
    )
    refuse([*SMALL, "--data", data, "--output", tmp_path], 3, said)


def test_102_memory_short_while_a_checkpoint_is_read(output: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not called damaged, and no other checkpoint is offered."""
    model = output / "001-cnn" / "model.pt"
    monkeypatch.setattr(torch, "load", failing)
    refuse(
        ["predict", data / "cat", "--output", output], 3, f"out of memory while {model} was read: 3 GB were requested"
    )
    monkeypatch.undo()
    assert load_file(model)


def test_102_memory_short_at_the_first_batch(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is divided; where a single image does not fit, the hint is smaller images or a smaller model."""
    monkeypatch.setattr(TrainState, "zero_grad", failing)
    outcome = refuse(
        [*SMALL, "--data", data, "--output", tmp_path], 3, "out of memory at a single image. Use a smaller"
    )
    assert "out of memory: a batch is now computed in 2 parts; its size stays the same" in outcome.notes


def test_102_memory_short_while_images_are_read(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is skipped for a lack of memory or of open files."""
    for number, hint in ((errno.ENOMEM, "memory limit"), (errno.EMFILE, "ulimit -n")):

        def refused(path: Path, number: int = number) -> bytes:
            if threading.current_thread().name.startswith("decode"):
                raise OSError(number, os.strerror(number))
            return path.open("rb").read()

        monkeypatch.setattr(Path, "read_bytes", refused)
        refuse(
            [*SMALL, "--data", data, "--output", tmp_path / hint[-1]],
            3,
            f"cannot be read ({os.strerror(number)})",
            hint,
        )
