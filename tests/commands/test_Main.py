"""From what a command raises to its exit code, and the one line that says what went wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import torch

from MLPipeline.commands.Main import run_command
from MLPipeline.Config import Config
from MLPipeline.console.Signals import Interrupted
from MLPipeline.Errors import (
    DataError,
    DivergedError,
    GateMissedError,
    ResourceError,
    UsageError,
    is_out_of_memory,
)


def raising(error: BaseException | None) -> Callable[[str], Callable[[Config], None]]:
    def command(config: Config) -> None:
        if error:
            raise error

    return lambda verb: command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (UsageError("--lr -1: out of range", "Give more"), 2),
        (DataError("Data: empty", "Fill it"), 2),
        (ResourceError("disk: full", "Free some"), 3),
        (DivergedError("epoch 1: the loss is nan", "Try less"), 4),
        (GateMissedError("accuracy 0.5", "Train longer"), 5),
    ],
    ids=str,
)
def test_an_exit_code_for_each_kind_of_error(
    error: Exception | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["runs"], raising(error)) == code
    assert capsys.readouterr().err == (f"error: {error}\n" if error else "")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_has_the_shells_exit_code_and_no_traceback(
    signum: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["runs"], raising(Interrupted(signum))) == code
    assert capsys.readouterr().err == ""


MEMORY = [
    MemoryError("Unable to allocate 7.45 GiB for an array"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:83] data. DefaultCPUAllocator: not enough memory: you tried to"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_is_the_machines_fault(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 43, wherever it happens."""
    assert is_out_of_memory(error)
    assert run_command(["runs"], raising(error)) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory (") and err.endswith(
        "Use a smaller --batch-size, --image-size or --model\n"
    )


def test_what_the_allocator_of_torch_really_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("memory"), KeyError(1)])
def test_anything_else_is_a_bug_of_ours(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_out_of_memory(error)
    assert run_command(["runs"], raising(error)) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "This is a bug in the pipeline" in err.splitlines()[-1]


def test_both_signals_are_taken_over_before_the_command_begins() -> None:
    taken = []
    run_command(
        ["runs"], lambda verb: lambda config: taken.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))
    )
    assert len(taken) == 2 and all(getattr(handler, "__name__", "") == "_receive" for handler in taken)
