"""Where to compute and in which number format: chosen once, the same for the whole run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn

from MLPipeline.Errors import UsageError

_FEW_PARAMETERS = 1_000_000  # a linear head on 2048 features for 500 classes
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: this machine (or this build of torch) has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present[name]:
        usable = ", ".join(kind for kind, here in present.items() if here)
        raise UsageError(f"--device {name}: not available here", f"Use --device auto, or one of: {usable}")
    return torch.device(name)


def fast_dtypes(device: torch.device, precision: str = "auto") -> list[torch.dtype]:
    """Return the dtypes in which a forward pass is fast on `device`, the fastest first; `precision` names the one."""
    if precision != "auto":
        return [_DTYPES[precision]]
    if device.type == "cuda":
        return [torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16, torch.float32]
    fast = {torch.bfloat16: _cpu_multiplies_bf16(), torch.float16: _cpu_multiplies_fp16(), torch.float32: True}
    return [dtype for dtype, is_fast in fast.items() if is_fast and (device.type == "cpu" or dtype == torch.float32)]


def training_dtype(device: torch.device, model: nn.Module, precision: str = "auto") -> torch.dtype:
    """Return the dtype for training `model`: the fastest, but fp32 where bf16 does not pay on a CPU.

    The backward pass of depthwise convolutions in bf16 is slower than in fp32 (EfficientNet-B0 at 128x128 on two
    cores with AMX: 41 against 48 images/s), and a bare head is too small to gain.
    """
    if precision == "auto" and device.type == "cpu":
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions or any(m.groups == m.in_channels > 1 for m in convolutions):
            return torch.float32
    return fast_dtypes(device, precision)[0]


@contextlib.contextmanager
def threads_for(module: nn.Module) -> Iterator[None]:
    """Compute on one CPU thread inside the `with` block if `module` is small: a head on features.

    Its operations take microseconds. Shared out over all cores they take longer, and a hundred times as long where
    another process keeps one of the cores busy, for every operation waits for the slowest thread.
    """
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    before = torch.get_num_threads()
    if not convolves and sum(parameter.numel() for parameter in module.parameters()) < _FEW_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def decoding_threads(workers: int | None) -> int:
    """Return the number of decoding threads: `workers`, or one per core this process may run on."""
    with contextlib.suppress(AttributeError):  # macOS and Windows do not tell
        return workers or len(os.sched_getaffinity(0))
    return workers or os.cpu_count() or 1


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
