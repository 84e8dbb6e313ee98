"""Damages files: anywhere, as disks and networks do, and in their structure, as someone would who means harm."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import torch

_WORDS = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -5, 7, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "nan", "../../x", "/", "a\0b", "\udcff", "\ud800",
    "\u202eabc", "x" * 5000, "=1+1", [], [1], [[[]]], {}, {"a": 1}, {"": None}, "resnet50", "regnet_y_128gf",
    "test", "val",
)  # fmt: skip
TEXTS = (
    b"", b"nan", b"-1", b"1e999", b"9" * 5000, b'"', b"'", b",", b";", b"\t", b"\r", b"\n", b"\0", b"\xff",
    b"\xef\xbb\xbf",
    b"../../x", b"=1+1", b"true", b"test", b"cat", b"dog", b"cat/000.png", b"[" * 2000, b"{", b"}", b"NaN", b"Infinity",
    b"1" + b"0" * 400, b"\\u0000", b"\\ud800", b"\xe2\x80\xae",
)  # fmt: skip


def bytes_of(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with up to 8 places flipped, replaced, cut out, filled in or doubled; or its end cut off."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(min(max(len(data), 1), draw.choice((64, 1000, 10**9))))  # headers matter more
        kind = draw.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + 4] = draw.choice(_WORDS)
        elif kind == 2:
            del data[at : at + draw.randint(1, 50)]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randint(1, 50))
        elif kind == 4:
            data[at:at] = data[at // 2 : at]
        elif kind == 5:
            end = len(data) - draw.randint(1, min(len(data), 1000)) if data else 0
            data[end:] = data[end:][: draw.randint(0, 100)]
        elif draw.random() < 0.1:
            del data[at:]
    return bytes(data)


def text_of(content: bytes, draw: random.Random) -> bytes:
    """Return a table or JSON with words of its own language put in, swapped or left out."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        data[at : at + draw.choice((0, 0, 1, 5))] = draw.choice(TEXTS)
    lines = bytes(data).split(b"\n")
    if draw.random() < 0.3:
        draw.shuffle(lines)
    if draw.random() < 0.2:
        lines += lines
    return b"\n".join(lines)


def json_of(content: bytes, draw: random.Random) -> bytes:
    """Return JSON with some of its values replaced by hostile ones."""
    values = json.loads(content)
    for _ in range(draw.randint(1, 3)):
        values = _with_hostile(values, draw)
    return json.dumps(values, default=str).encode("utf-8", "surrogatepass")


def checkpoint_of(content: bytes, draw: random.Random) -> bytes:
    """Return a file of torch.save with values, shapes, types or names changed, or parts of its archive."""
    if draw.random() < 0.3:
        return _archive_of(content, draw)
    values = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(draw.randint(1, 3)):
        values = _with_hostile(values, draw)
    buffer = io.BytesIO()
    try:
        torch.save(values, buffer, _use_new_zipfile_serialization=draw.random() < 0.8)
    except (RuntimeError, OverflowError, UnicodeEncodeError):  # cannot be written, so no one can have written it
        return bytes_of(content, draw)
    return buffer.getvalue()


def _archive_of(content: bytes, draw: random.Random) -> bytes:
    """Return an archive whose parts are damaged, left out, doubled or compressed, with checksums that are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        struck = set(draw.sample(names, draw.randint(0, 2))) | {names[0]} if draw.random() < 0.7 else set()
        for name in names:
            part = source.read(name)
            if name in struck:
                part = bytes_of(part, draw)
            packed = zipfile.ZIP_DEFLATED if draw.random() < 0.02 else zipfile.ZIP_STORED
            if draw.random() > 0.01:
                target.writestr(name if draw.random() > 0.01 else f"{name}x", part, packed)
    return buffer.getvalue()


def _with_hostile(values: Any, draw: random.Random) -> Any:
    """Return a copy of nested containers in which one value is replaced, left out or added."""
    values = copy.copy(values)
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    if not keys:
        return draw.choice(HOSTILE)
    key = draw.choice(keys)
    kind = draw.random()
    if isinstance(values[key], (dict, list)) and kind < 0.7:
        values[key] = _with_hostile(values[key], draw)
    elif kind < 0.78 and isinstance(values, dict):
        del values[key]
    elif kind < 0.84 and isinstance(values, dict):
        values[draw.choice(("", "a", 3, "state_dict", "mean", "classes"))] = draw.choice(HOSTILE)
    elif isinstance(values[key], torch.Tensor):
        values[key] = draw.choice(_TENSORS)(values[key])
    else:
        values[key] = draw.choice(HOSTILE)
    return values


_TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda tensor: tensor.double(),
    lambda tensor: tensor.half(),
    lambda tensor: tensor.int() if not tensor.is_complex() else tensor,
    lambda tensor: tensor + 1j,
    lambda tensor: tensor.float() * float("nan"),
    lambda tensor: tensor.float() - 3e38,
    lambda tensor: tensor.float() * 1e30,
    lambda tensor: -tensor if tensor.dtype != torch.bool else tensor,
    lambda tensor: tensor.flatten()[:1].expand(1000, 1000),
    lambda tensor: tensor[None],
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor.T.contiguous() if tensor.dim() == 2 else tensor,
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: torch.empty(0),
    lambda tensor: torch.zeros(3, 0, 2**20),
    lambda tensor: tensor.tolist(),
    lambda tensor: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
)
