"""Model files that no one would write by accident: `torch.save` cannot make them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Storage:
    """The claim that the part `data/<key>` of the archive holds `length` numbers."""

    key: str
    length: int
    kind: type = torch.FloatStorage


@dataclass(frozen=True)
class Claim:
    """The claim that a tensor of any shape lies in a storage."""

    storage: Storage
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.storage, self.offset, self.shape, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class Call:
    """A pickle of this calls `function(*arguments)` when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


class _Pickler(pickle._Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.kind, obj.key, "cpu", obj.length) if isinstance(obj, Storage) else None


def pickled(content: object) -> bytes:
    """Return the pickle of `content` that `torch.save` would write, with claims in place of tensors."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write_archive(
    path: Path, content: object | bytes, compression: int = zipfile.ZIP_STORED, **storages: bytes
) -> Path:
    """Write an archive as `torch.save` does, of `content` (or its pickle) and storages by their keys."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", content if isinstance(content, bytes) else pickled(content))
        archive.writestr("model/byteorder", "little")
        for key, numbers in storages.items():
            archive.writestr(f"model/data/{key}", numbers)
        archive.writestr("model/version", "3\n")
    return path
