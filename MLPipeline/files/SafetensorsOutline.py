"""What a safetensors file contains, from its header: 8 bytes with the header's length, JSON, then the numbers.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch

from MLPipeline.files.Json import parse_json
from MLPipeline.files.PlainValues import are_texts, is_whole
from MLPipeline.files.TensorOutline import DamagedError, TensorOutline, UnusualTensorError

_MAX_HEADER_BYTES = 16 * 2**20  # a thousand tensors take 0.1 MB
_MAX_DIMENSIONS = 64
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors_outline(file: BinaryIO) -> dict[str, TensorOutline]:
    """Return the tensors of a safetensors file by name, without reading them.

    Raises:
        UnusualTensorError: a tensor has a type that is not read here.
        DamagedError: the header is damaged, or contradicts itself or the size of the file.
    """
    num_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(num_bytes - 8, _MAX_HEADER_BYTES):
        raise DamagedError("its header has an impossible length")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise DamagedError(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict) or not are_texts(header.pop("__metadata__", {})):
        raise DamagedError("its header describes no tensors")
    outlines, ends = {}, []
    for name, about in header.items():
        outlines[name], begin, end = _tensor(name, about)
        ends.append((begin, end))
    last = 0
    for begin, end in sorted(ends):  # one tensor after the other: no gap, nothing twice, nothing beyond the end
        if begin != last:
            raise DamagedError("its tensors overlap, or have gaps between them")
        last = end
    if last != num_bytes - 8 - length:
        raise DamagedError("its tensors have another size than the file")
    return outlines


def _tensor(name: str, about: Any) -> tuple[TensorOutline, int, int]:
    """Return the outline of a tensor, and where its bytes begin and end."""
    if not isinstance(about, Mapping) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise DamagedError(f"its tensor {name[:40]!r} is not described")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UnusualTensorError(f"one of type {str(dtype)[:20]}")
    is_sound = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not is_sound or len(shape) > _MAX_DIMENSIONS or not all(is_whole(size, 0, 2**62) for size in (*shape, *offsets)):
        raise DamagedError(f"its tensor {name[:40]!r} has an impossible shape or place")
    outline = TensorOutline(tuple(shape), _DTYPES[dtype], name)
    if offsets[1] - offsets[0] != outline.num_bytes:
        raise DamagedError(f"its tensor {name[:40]!r} has another size than its shape")
    return outline, offsets[0], offsets[1]
