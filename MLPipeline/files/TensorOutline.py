"""What a file of tensors contains, without reading a tensor: its containers, with shape and type in place of tensors.

    outline = read_outline(file)      # {"state_dict": {"head.weight": TensorOutline((2, 512), torch.float32)}, ...}

torch.load allocates what a file asks for before it notices that the file has less, and a pickle can ask for anything:
a file of a kilobyte may take all memory. So the outline is read first, by an unpickler that knows nothing but
containers and dense tensors, and every size in it is compared with the size of the file.

Two formats are read: that of `torch.save` since PyTorch 1.6 (a zip archive) and the one before it (pickles, then the
numbers). `SafetensorsOutline` reads the third.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, BinaryIO

import torch

MAX_PICKLE_BYTES = 16 * 2**20  # 100,000 epochs in `last.pt` take 10 MB; a thousand tensors 0.2 MB
_DOS_FOLDER = 0x10  # a bit of the attributes in a zip archive's directory
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class DamagedError(ValueError):
    """The file is not what it claims to be; the text says in what respect."""


class ForbiddenError(ValueError):
    """The file contains something that could run code: its only argument is the name."""


class UnusualTensorError(ValueError):
    """The file contains a tensor that is not dense, such as a sparse one; the text says which kind."""


@dataclass(frozen=True)
class TensorOutline:
    """A dense tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: str  # tensors of one storage may share numbers

    @property
    def num_bytes(self) -> int:
        """The memory that the tensor takes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class _Storage:
    """The numbers of one or several tensors."""

    key: str
    dtype: torch.dtype
    length: int  # in numbers of this type

    @property
    def num_bytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass
class _Contents:
    """The storages and tensors that a pickle names, checked as they occur."""

    storages: dict[str, _Storage] = field(default_factory=dict)

    def add_storage(self, pid: Any) -> _Storage:
        """Return the storage with the persistent identifier `pid`: (storage, type, key, place, length[, view])."""
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or any(each is not None for each in view):
            raise UnusualTensorError("a view of another storage")
        _require(isinstance(dtype, torch.dtype) and isinstance(key, str), "a storage without type or name")
        _require(_is_size(length), "a storage of impossible size")
        storage = _Storage(key, dtype, length)
        _require(
            self.storages.setdefault(key, storage).num_bytes == storage.num_bytes,
            "a storage that has two different sizes",
        )
        return storage

    def add_tensor(self, storage: Any, offset: Any, shape: Any, stride: Any) -> TensorOutline:
        """Return a tensor; it must lie within its storage, and no two of its elements may be the same number."""
        _require(isinstance(storage, _Storage) and _is_size(offset), "a tensor without storage")
        _require(isinstance(shape, tuple) and isinstance(stride, tuple), "a tensor without shape")
        _require(len(shape) == len(stride) and all(map(_is_size, (*shape, *stride))), "a tensor of impossible shape")
        last = 0  # the place of the last element so far, from the dimension with the smallest steps to the largest
        for step, size in sorted(zip(stride, shape, strict=True)):
            if size > 1 and step <= last and 0 not in shape:
                raise UnusualTensorError("an expanded tensor, whose elements overlap")
            last += step * max(size - 1, 0)
        _require(0 in shape or offset + last < storage.length, "a tensor larger than what is stored of it")
        return TensorOutline(shape, storage.dtype, storage.key)


def is_archive(file: BinaryIO) -> bool:
    """Return whether `file` has the format of `torch.save` since PyTorch 1.6: a zip archive, from its first byte on."""
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def read_outline(file: BinaryIO) -> Any:
    """Return the content of a file that `torch.save` has written, with a `TensorOutline` in place of each tensor.

    Raises:
        ForbiddenError: it contains something that could run code.
        UnusualTensorError: it contains a tensor that is not dense.
        DamagedError: it is damaged, or its sizes contradict each other; other damage raises other errors.
    """
    return _archive_outline(file) if is_archive(file) else _legacy_outline(file)


def _archive_outline(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        _check_parts(archive, os.fstat(file.fileno()).st_size)
        main = [name for name in parts if name.count("/") == 1 and name.endswith("/data.pkl")]
        _require(len(main) == 1, "no part data.pkl, or several")
        _require(parts[main[0]].file_size <= MAX_PICKLE_BYTES, "a part data.pkl that is far too large")
        contents = _Contents()
        with archive.open(main[0]) as pickled:
            outline = _Unpickler(pickled, contents).load()
    folder = main[0].removesuffix("data.pkl") + "data/"
    for key, storage in contents.storages.items():
        part = parts.get(folder + key)
        _require(part is not None and part.file_size == storage.num_bytes, f"another size than said in part {key[:20]}")
    return outline


def _check_parts(archive: zipfile.ZipFile, num_bytes: int) -> None:
    """Make sure that no part is compressed, and that all parts together are no larger than the file."""
    parts = archive.infolist()
    _require(len({part.filename for part in parts}) == len(parts), "two parts of one name")
    for part in parts:
        is_stored = part.compress_type == zipfile.ZIP_STORED and part.compress_size == part.file_size
        _require(is_stored, f"a compressed part, {part.filename[:40]!r}, which torch.save never writes")
        if part.file_size and part.external_attr & _DOS_FOLDER:  # torch.load would read nothing of it
            raise DamagedError(f"damage in {part.filename[:40]!r}")
    _require(sum(part.file_size for part in parts) <= num_bytes, "parts larger than the file")


def _legacy_outline(file: BinaryIO) -> Any:
    file.seek(0)
    contents = _Contents()
    num_bytes = os.fstat(file.fileno()).st_size
    pickled = _Limited(file, min(num_bytes, MAX_PICKLE_BYTES))
    magic = _Unpickler(pickled, contents).load()
    _require(magic == _LEGACY_MAGIC, "no file of torch.save")
    _require(_Unpickler(pickled, contents).load() == _LEGACY_VERSION, "another version of the format")
    about = _Unpickler(pickled, contents).load()
    _require(isinstance(about, dict) and about.get("little_endian") is True, "numbers of another byte order")
    outline = _Unpickler(pickled, contents).load()
    keys = _Unpickler(pickled, contents).load()
    _require(isinstance(keys, list) and sorted(keys) == sorted(contents.storages), "other storages than said")
    for key in keys:
        storage = contents.storages[key]
        _require(file.read(8) == struct.pack("<q", storage.length), "another size than said in a storage")
        file.seek(storage.num_bytes, os.SEEK_CUR)
    _require(file.tell() == num_bytes, "another size than said")
    return outline


class _Limited:
    """A file of which no more than `left` bytes can be read."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def read(self, number: int) -> bytes:
        """Return the next `number` bytes."""
        return self._counted(self._file.read(min(number, self._left)))

    def readline(self) -> bytes:
        """Return the next line."""
        return self._counted(self._file.readline(self._left))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


# The globals that a file of plain tensors names, and what stands for them in an outline.
_STANDINS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): dict(_pairs(pairs)),
    "collections.Counter": lambda counts=(): dict(_pairs(counts.items() if isinstance(counts, dict) else counts)),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *names: str(names[:1])[:40],
    "builtins.set": list,
    "builtins.complex": lambda real=0.0, imaginary=0.0: (float(real), float(imaginary)),
    "builtins.bytearray": lambda content=b"": _as_bytes(content),
    "_codecs.encode": lambda text, encoding: _encoded(text, encoding),
}


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, in Python, with the few instructions that torch.save writes and no way to call anything."""

    def __init__(self, file: Any, contents: _Contents) -> None:
        super().__init__(file, encoding="utf-8")
        tensor = contents.add_tensor
        self._contents = contents
        self._standins = {
            **_STANDINS,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, stride, *_: tensor(
                storage, offset, shape, stride
            ),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
        }

    def knows(self, function: Any) -> bool:
        """Return whether `function` stands for a global."""
        return any(function is each for each in self._standins.values())

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the global `module.name`."""
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in self._standins:
            return self._standins[full]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return value
        if module == "torch._utils" or name.endswith("Storage") or full == "torch.serialization._get_layout":
            raise UnusualTensorError(f"one that {full[:60]} makes")
        raise ForbiddenError(full)

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that `pid` describes."""
        _require(isinstance(pid, tuple) and len(pid) in (5, 6), "a storage that is not described")
        return self._contents.add_storage(pid)


# The instructions of a pickle that call, set or extend something, restricted to what a state dict contains.
def _reduce(machine: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    _require(machine.knows(function) and isinstance(arguments, tuple), "a call of no function")
    machine.append(function(*arguments))


def _build(machine: Any) -> None:
    machine.stack.pop()  # attributes: torch keeps the versions of modules as one of a state dict
    _require(isinstance(machine.stack[-1], dict), "attributes of what has none")


def _set_item(machine: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])


def _set_items(machine: Any) -> None:
    _update(machine, machine.pop_mark())


def _update(machine: Any, values: list[Any]) -> None:
    _require(isinstance(machine.stack[-1], dict), "items of what is no dict")
    machine.stack[-1].update(_pairs(zip(values[::2], values[1::2], strict=True)))


def _append(machine: Any) -> None:
    value = machine.stack.pop()
    _extend(machine, [value])


def _appends(machine: Any) -> None:
    _extend(machine, machine.pop_mark())


def _extend(machine: Any, values: list[Any]) -> None:
    _require(isinstance(machine.stack[-1], list), "items of what is no list")
    machine.stack[-1].extend(values)


_AS_IN_PYTHON = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING EMPTY_DICT "
    "EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT LONG_BINPUT BINPERSID GLOBAL"
)
_INSTRUCTIONS: dict[int, Callable[[Any], None]] = {
    code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _AS_IN_PYTHON.split())
} | {
    pickle.REDUCE[0]: _reduce,
    pickle.BUILD[0]: _build,
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: _appends,
}
_Unpickler.dispatch = _INSTRUCTIONS


def _pairs(pairs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the items of a dict; hashing a key that is a deeply nested tuple could take for ever."""
    for key, value in pairs:
        _require(isinstance(key, (str, int, float, type(None))), "a key that is neither a text nor a number")
        yield key, value


def _encoded(text: Any, encoding: Any) -> bytes:
    _require(isinstance(text, str) and encoding == "latin1", "bytes in another encoding")
    return text.encode("latin1")


def _as_bytes(content: Any) -> bytes:
    _require(isinstance(content, bytes), "bytes that are not given")  # a number would ask for as much memory
    return content


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise DamagedError(f"it has {what}")
