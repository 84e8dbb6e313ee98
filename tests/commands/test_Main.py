"""From what a command raises to its exit code, and the one line that says what went wrong."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch

from MLPipeline.commands.Main import run_command
from MLPipeline.Config import Config
from MLPipeline.console.Signals import Interrupted
from MLPipeline.decoding.OpenCv import cv2
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
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.82 GB, other allocations: 3.2 GB)"),
    RuntimeError("std::bad_alloc"),
    cv2.error("OpenCV(4.12) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 160 bytes in function"),
    RuntimeError("can't start new thread"),
    RuntimeError("could not create a primitive"),
    RuntimeError("unable to mmap 1024 bytes from file </model.pt>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Nicht genügend Speicher"),  # the system may speak another language
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libtorch_cpu.so: cannot allocate memory for thread-local data: ABORT"),
    OSError("libtorch_cuda.so: cannot map zero-fill pages: Cannot allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_is_the_machines_fault(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 43, wherever it happens."""
    assert is_out_of_memory(error)
    assert run_command(["runs"], raising(error)) == 3
    assert re.fullmatch(
        r"error: out of memory while (computing|libraries were loaded).*\. Close other programs.*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([], "Use a smaller --batch-size, --image-size, --model or --workers"),
        (["train"], "Use a smaller --batch-size, --image-size, --model or --workers"),
        (["predict", "a.jpg"], "Use a smaller --workers"),
        (["tune"], "Use a smaller --model or --workers"),
        (["runs"], "Close other programs"),
    ],
    ids=str,
)
def test_the_hint_names_flags_of_the_verb(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(argv or ["--model", "cnn"], raising(MemoryError())) == 3
    assert capsys.readouterr().err == f"error: out of memory while computing. {hint}\n"


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (10,) and data type float64"), "7.45 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2600000000 bytes."), "2.6 GB"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"), "20.00 MiB"),
    ],
    ids=["numpy", "cpu", "cuda"],
)
def test_the_error_says_how_much_was_requested(error: Exception, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["runs"], raising(error)) == 3
    assert capsys.readouterr().err.startswith(f"error: out of memory while computing: {size} were requested. ")


def test_what_the_allocator_of_torch_really_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


def test_what_numpy_really_says() -> None:
    with pytest.raises(MemoryError) as caught:
        np.ones(2**50)
    assert is_out_of_memory(caught.value)


NOT_MEMORY = [
    RuntimeError("shapes cannot be multiplied"),
    ValueError("out of memory"),
    RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
    KeyError(1),
    ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object: Operation not permitted"),
    OSError(errno.ENOSPC, "No space left on device"),
    cv2.error("OpenCV(4.12) resize.cpp:3789: error: (-215:Assertion failed) !dsize.empty() in function 'resize'"),
]


@pytest.mark.parametrize("error", NOT_MEMORY, ids=str)
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
