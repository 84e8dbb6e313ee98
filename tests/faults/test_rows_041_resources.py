"""Rows 41 to 45 and 49 to 53 of the fault matrix: disk, memory, open files, processes, locks, clock, packages."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import Engine
from MLPipeline import Train, commands, tuning
from MLPipeline.files.RunFolder import Run, lock_run
from MLPipeline.files.TensorFile import load_file
from MLPipeline.report.Drawing import drawing
from MLPipeline.training.TrainState import TrainState
from tests.support.crash import result
from tests.support.harness import SMALL, content, refuse, succeed
from tests.support.stop_cases import Command, resuming

MakeImages = Callable[..., Path]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("resources") / "Data", {"cat": 6, "dog": 6})


@pytest.fixture
def flags(two_classes: Path, tmp_path: Path) -> list[str | Path]:
    return [*SMALL, "--epochs", "1", "--data", two_classes, "--output", tmp_path / "output"]


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    """Set a resource limit of this process inside the `with` block."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "moment"), [("last.pt", 1), ("last.pt", 4), ("model.pt", 1), ("history.csv", 1), ("history.png", 1)]
)
def test_041_a_full_disk_while_a_run_is_saved(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch, file: str, moment: int
) -> None:
    """A disk that is full when checkpoint, history or plot are written: exit code 3; the old checkpoint is resumed."""
    replace, calls = os.replace, []

    def full(source: Any, target: Any) -> None:
        calls.append(Path(target).name)
        if calls.count(file) >= moment:
            no_space()
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        outcome = refuse(resuming(stopped), 3, f"{stopped}/", "cannot be written (No space left on device)")
    assert f"to resume: python Engine.py --resume {stopped}" in outcome.notes
    assert load_file(stopped / "last.pt") and load_file(stopped / "model.pt")
    assert not list(stopped.glob(".*")) and not (stopped / "metrics.json").exists()
    succeed(resuming(stopped))
    assert result(stopped.parent) == command.whole


@pytest.mark.parametrize(
    "full", ["MLPipeline.Checkpoint.torch.save", "os.fsync", "MLPipeline.files.Cache.RowStore.append"]
)
def test_041_a_full_disk_in_a_new_run(
    flags: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """A disk that is full when the cache or the first model is written: exit code 3, nothing half-written."""
    with monkeypatch.context() as patch:
        patch.setattr(full, no_space)
        refuse(flags, 3, "No space left on device", "Free space")
    assert not list((tmp_path / "output").glob("[0-9]*/model.pt"))
    assert not list((tmp_path / "output").glob("[0-9]*/.*"))
    succeed(flags)


def test_041_a_limit_on_the_size_of_files(flags: list[str | Path], tmp_path: Path) -> None:
    """The system refuses to let a file grow (`ulimit -f`): exit code 3 naming the file."""
    with limited(resource.RLIMIT_FSIZE, 4000):  # bytes; less than the rows of 12 images take
        refuse(flags, 3, str(tmp_path / "output"), "File too large")
    succeed(flags)


def test_042_an_output_that_cannot_be_written(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only output folder: exit code 3 before training starts."""

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    argv = [*SMALL, "--data", two_classes, "--output", tmp_path / "output"]
    outcome = refuse(argv, 3, str(tmp_path / "output"), "Permission denied", "another --output")
    assert "epoch" not in outcome.out


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_043_memory_for_half_a_batch(
    stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Memory for half a batch: computed in two parts that move the weights as the whole batch does; a note says so."""
    cross_entropy = Train.cross_entropy

    def cramped(logits: torch.Tensor, *given: object, **named: object) -> torch.Tensor:
        if len(logits) > 2:
            raise OUT_OF_MEMORY[kind]
        return cross_entropy(logits, *given, **named)

    monkeypatch.setattr(Train, "cross_entropy", cramped)
    outcome = succeed(resuming(stopped))
    assert "out of memory: a batch is now computed in 2 parts; its size stays the same" in outcome.notes
    losses = pd.read_csv(stopped / "history.csv")[["train_loss", "val_loss"]]
    whole = pd.read_csv(command.output / "001-run" / "history.csv")[["train_loss", "val_loss"]]
    np.testing.assert_allclose(losses, whole, rtol=0.1)  # not equal: dropout draws for each part


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_043_memory_that_never_suffices(stopped: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Memory that does not suffice for a single image: exit code 3, after a batch was tried in ever smaller parts."""

    def fail(*_: object, **__: object) -> None:
        raise OUT_OF_MEMORY[kind]

    monkeypatch.setattr(Train, "cross_entropy", fail)
    outcome = refuse(resuming(stopped), 3, "out of memory at a single image", "Use a smaller --image-size")
    assert [note for note in outcome.notes if "parts" in note] == [
        f"out of memory: a batch is now computed in {parts} parts; its size stays the same" for parts in (2, 4)
    ]


def test_043_memory_that_runs_out_elsewhere(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out outside of training: exit code 3, not reported as a bug."""

    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("MLPipeline.steps.FinishRun.measure", fail)
    refuse(resuming(stopped), 3, "out of memory while computing: 9 TiB were requested", "Use a smaller --batch-size")


@pytest.mark.parametrize("num_free", [3, 6, 9])
def test_044_too_many_open_files(
    two_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], num_free: int
) -> None:
    """Too many open files: exit code 3 with that reason and the command that raises the limit."""
    argv = [*SMALL, "--data", str(two_classes), "--output", str(tmp_path / "output")]
    with limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) - 1 + num_free):
        assert Engine.main(argv) == 3  # not by the harness, which opens files itself
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"error: {tmp_path}") and "(Too many open files)" in last and "ulimit -n" in last


def test_044_shared_memory_that_is_full(flags: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/shm` is full: no effect, because images are decoded by threads, which need no shared memory."""
    for name in ("multiprocessing.shared_memory.SharedMemory", "torch.UntypedStorage._new_shared"):
        monkeypatch.setattr(name, no_space)
    succeed([*flags, "-j", "4"])


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_045_the_drawing_process_is_killed_or_hangs(
    flags: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    """The process that draws is killed or hangs: after a time limit the run draws its pictures itself and succeeds."""
    begin = type(drawing).begin

    def begin_and_signal() -> None:
        begin(drawing)
        drawing._process.send_signal(signum)

    monkeypatch.setattr("MLPipeline.report.Drawing._ANSWER_S", 0.2)
    monkeypatch.setattr(drawing, "begin", begin_and_signal)
    outcome = succeed(flags, paints=True)
    assert (tmp_path / "output" / "001-cnn" / "confusion_matrix.png").stat().st_size > 10_000
    assert "result   test accuracy" in outcome.out and drawing._process is None


@pytest.mark.slow
def test_049_two_processes_in_one_run_folder(stopped: Path) -> None:
    """A second process in a run folder: exit code 3 naming the first; the lock of a killed process does not block."""
    holder = f"""if True:
        import sys, time
        from pathlib import Path
        from MLPipeline.files.RunFolder import Run, lock_run
        with lock_run(Run(Path({str(stopped)!r}), 1, "run")):
            print("held", flush=True)
            time.sleep(120)
    """
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    before = content(stopped)
    refuse(resuming(stopped), 3, f"{stopped}: in use by process {process.pid}", "Wait until it is done, or end it")
    assert content(stopped) == before
    process.kill()
    process.wait()
    with lock_run(Run(stopped, 1, "run")):
        pass
    succeed(resuming(stopped))


def test_050_a_loss_that_is_no_number(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of NaN: exit code 4 naming epoch, batch and learning rate; the last good weights are kept."""
    stepped, losses = [], iter([1.0, float("nan")])
    cross_entropy, step = Train.cross_entropy, TrainState.step
    monkeypatch.setattr(Train, "cross_entropy", lambda *given, **named: cross_entropy(*given, **named) * next(losses))
    monkeypatch.setattr(TrainState, "step", lambda state: (stepped.append(1), step(state))[1])
    before = load_file(stopped / "model.pt")
    refuse(resuming(stopped), 4, "epoch 3, batch 1: the loss is nan at --lr 0.05", "Try --lr 0.005")
    assert len(stepped) == 1
    last, best = load_file(stopped / "last.pt"), load_file(stopped / "model.pt")
    for state in (last["state"]["model"], best["state_dict"]):  # type: ignore[index,call-overload]
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    assert best["epoch"] >= before["epoch"] > 0  # type: ignore[index,call-overload]
    history = pd.read_csv(stopped / "history.csv")
    assert history["val_loss"].notna().all() and history["epoch"].tolist() == [1, 2]


def damage_rows(folder: Path) -> None:
    rows = folder / "rows.bin"
    content = bytearray(rows.read_bytes())
    content[10] ^= 1
    rows.write_bytes(content)


def truncate_rows(folder: Path) -> None:
    os.truncate(folder / "rows.bin", 1000)


def remove_keys(folder: Path) -> None:
    (folder / "keys.bin").unlink()


@pytest.mark.parametrize("damage", [damage_rows, truncate_rows, remove_keys])
def test_051_a_damaged_cache(flags: list[str | Path], tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A cache with damaged, truncated or missing files: what is damaged is computed again, with the same result."""
    succeed(flags)
    (store,) = (tmp_path / "output" / "cache").glob("pixels-*")
    whole = (store / "rows.bin").read_bytes()
    damage(store)
    outcome = succeed(flags)
    assert set(rows_of(store, len(whole) // 12)) == set(rows_of(whole, len(whole) // 12)) | (
        {(store / "rows.bin").read_bytes()[: len(whole) // 12]} if damage is damage_rows else set()
    )
    assert any("computed again" in note for note in outcome.notes) == (damage is damage_rows)
    first, second = (tmp_path / "output" / f"00{run}-cnn" / "history.csv" for run in (1, 2))
    pd.testing.assert_frame_equal(*(pd.read_csv(each).drop(columns="seconds") for each in (first, second)))


def rows_of(store: Path | bytes, size: int) -> list[bytes]:
    content = store if isinstance(store, bytes) else (store / "rows.bin").read_bytes()
    return [content[at : at + size] for at in range(0, len(content), size)]


def test_051_a_cache_of_another_version(
    flags: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of another version or of other files: not used, and filled beside it."""
    succeed(flags)
    monkeypatch.setattr("MLPipeline.files.Cache.FORMAT", 999)
    succeed(flags)
    stores = list((tmp_path / "output" / "cache").glob("pixels-*"))
    assert len(stores) == 2 and len({(store / "rows.bin").read_bytes() for store in stores}) == 1


@pytest.mark.slow
def test_052_a_clock_set_back(stopped: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is set back during a run: no effect."""

    def backwards() -> Iterator[float]:
        now = 2e9
        while True:
            yield now
            now -= 3600.0

    clock = backwards()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(clock))
        succeed(resuming(stopped))
    assert result(stopped.parent) == command.whole
    assert (pd.read_csv(stopped / "history.csv")["seconds"] > 0).all()
    metrics = pd.read_json(stopped / "metrics.json", typ="series")
    assert 0 < metrics["timing"]["total_s"] < 600


PACKAGES = {
    "safetensors": ["--weights", "w.safetensors"],
    "optuna": ["tune", "--model", "efficientnet_lite0", "--minutes", "0.1"],
    "pyarrow": ["--labels", "t.parquet"],
}


@pytest.mark.parametrize("package", PACKAGES)
def test_053_an_optional_package_that_is_absent(
    flags: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """An optional package that is not installed: exit code 3 with the command that installs it."""
    (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    if package == "safetensors":
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for name in [each for each in sys.modules if each.startswith(("MLPipeline.tuning.", "MLPipeline.commands.Tune"))]:
        monkeypatch.delitem(sys.modules, name)  # an earlier test may have imported them with the package
    for room, file in ((tuning, "Study"), (tuning, "Tune"), (commands, "TuneHead")):
        monkeypatch.delattr(room, file, raising=False)  # so that they are put back afterwards
    words = [tmp_path / word if word.endswith(("tensors", "parquet")) else word for word in PACKAGES[package]]
    argv = [*words, *flags[-4:]] if words[0] == "tune" else [*flags, *words]
    refuse(argv, 3, "pip install", package)


def test_054_one_bad_file_among_those_to_predict(stopped: Path, tmp_path: Path, make_images: MakeImages) -> None:
    """`predict` for ten files, one of them damaged: nine answers and a note; exit code 2 only if none can be read."""
    new = make_images(tmp_path / "new", {"": 9}, size=16)
    (new / "009.png").write_bytes(b"")
    outcome = succeed(["predict", new, "--run", stopped])
    assert outcome.out.count("\n") == 9 and any("009.png" in note and "empty" in note for note in outcome.notes)
    refuse(["predict", new / "009.png", "--run", stopped], 2, "009.png")
