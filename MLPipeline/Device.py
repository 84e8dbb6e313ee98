"""Chooses the device and the number format, once for a whole run."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Barrier, Lock

import torch
from torch import nn

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.files.Machine import limit_allocations, num_cores, require_address_space

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # parameters of glibc's mallopt
_FEW_PARAMETERS = 1_000_000  # a linear head on 2048 features for 500 classes
_DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_starting = Lock()


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` prefers CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: this machine (or this build of torch) has no such device.
        ResourceError: `ulimit -v` leaves too little address space.
    """
    _keep_freed_memory()
    require_address_space()
    if torch.get_num_threads() > num_cores():  # torch does not know the limits of a container
        torch.set_num_threads(num_cores())
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in present.items() if here)
    if not present[name]:
        usable = ", ".join(kind for kind, here in present.items() if here)
        raise UsageError(f"--device {name}: not available here", f"Use --device auto, or one of: {usable}")
    if name == "cpu":  # the driver of a GPU reserves far more memory than it uses
        limit_allocations()
    return torch.device(name)


def join_ranks(name: str = "auto") -> torch.device:
    """Return the device called `name` for this rank after all ranks have met; for one process, as `choose_device`.

    Raises:
        UsageError: there is no such device for every rank.
        ResourceError: a rank is missing.
    """
    device = choose_device(name)
    if device.type == "mps" and ranks.local_size > 1:
        raise UsageError("--device mps: is for one process", "Use --device cpu with torchrun")
    if device.type == "cuda" and ranks.local_size > torch.cuda.device_count():
        what = f"--device {name}: {torch.cuda.device_count()} GPUs for {ranks.local_size} ranks"
        raise UsageError(what, "Start one rank per GPU: --nproc-per-node gpu")
    ranks.meet(device.type)
    if ranks.size > 1:  # torchrun sets one thread; all cores for each rank would be slower
        torch.set_num_threads(max(1, num_cores() // ranks.local_size))
        if device.type == "cuda":
            device = torch.device("cuda", ranks.local_rank)
            torch.cuda.set_device(device)
    return device


def fast_dtypes(device: torch.device, precision: str = "auto") -> list[torch.dtype]:
    """Return the dtypes that are fast in a forward pass on `device`, fastest first; or the one `precision` names.

    With `int8`, what is not quantized is in fp32.
    """
    if precision != "auto":
        return [_DTYPES[precision]]
    if device.type == "cuda":
        return [torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16, torch.float32]
    fast = {torch.bfloat16: _cpu_multiplies_bf16(), torch.float16: _cpu_multiplies_fp16(), torch.float32: True}
    return [dtype for dtype, is_fast in fast.items() if is_fast and (device.type == "cpu" or dtype == torch.float32)]


def training_dtype(device: torch.device, model: nn.Module, precision: str = "auto") -> torch.dtype:
    """Return the dtype for training `model`: the fastest, but fp32 where bf16 has no advantage on a CPU.

    The backward pass of depthwise convolutions in bf16 is slower than in fp32 (EfficientNet-B0 at 128x128 on two
    cores with AMX: 41 against 48 images/s), and a head alone is too small to gain from it.
    """
    if precision == "auto" and device.type == "cpu":
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions or any(m.groups == m.in_channels > 1 for m in convolutions):
            return torch.float32
    return fast_dtypes(device, precision)[0]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which a network with fp32 weights computes in `dtype`; for fp32 it does nothing."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()


@contextlib.contextmanager
def threads_for(module: nn.Module) -> Iterator[None]:
    """Compute on one CPU thread inside the `with` block if `module` is small, such as a head on features.

    Its operations take microseconds. Divided among all cores they take longer, and a hundred times as long if another
    process keeps one of the cores busy, because every operation waits for the slowest thread.
    """
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    is_small = not convolves and sum(parameter.numel() for parameter in module.parameters()) < _FEW_PARAMETERS
    with threads(1 if is_small else torch.get_num_threads()):
        yield


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute on `number` CPU threads inside the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start_threads(number: int) -> ThreadPoolExecutor:
    """Return a pool of `number` running threads that share the cores of this thread.

    torch keeps one number of cores for the process, which each new thread starts with. It is restored as soon as the
    threads of the pool have set their own, and before another pool starts.
    """
    with _starting:
        cores = torch.get_num_threads()
        pool = ThreadPoolExecutor(number, initializer=_use_cores, initargs=(max(1, cores // number),))
        all_run = Barrier(number + 1)
        try:
            for _ in range(number):
                pool.submit(all_run.wait)
            all_run.wait()
        except BaseException:  # such as Ctrl-C: no thread may be left waiting
            all_run.abort()
            pool.shutdown()
            raise
        finally:
            torch.set_num_threads(cores)
    return pool


def _use_cores(number: int) -> None:
    """Let this new thread use `number` cores."""
    torch.set_num_threads(number)
    # torch sets the number of a thread once more when it first computes: to that of the process, which is another by
    # then. Asking for it counts as that first time. Without, all cores computed each batch: EfficientNet-Lite0 in 8
    # bits 478 instead of 610 images a second.
    torch.get_num_threads()


def _keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors: requesting it again from Linux takes longer than to compute.

    By default glibc returns every block of more than 32 MB at once, and the kernel clears each page of the next one on
    first use. That halved the speed of EfficientNet-Lite0's forward pass and slowed training by 30 %. Other threads
    have arenas of at most 64 MB, which go back as well: with a single arena, two streams are 3 to 7 % faster.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_ARENA_MAX, 1)


def _cpu_multiplies_bf16() -> bool:
    """Return whether the processor has bf16 matrix instructions (AMX or AVX512-BF16); without them bf16 is emulated."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def _cpu_multiplies_fp16() -> bool:
    """Return whether oneDNN computes in fp16 on this processor (AVX512-FP16)."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return False
