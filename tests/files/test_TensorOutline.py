"""The outline of a tensor file says what torch.load would give; a file that lies about its sizes is refused unread."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from MLPipeline.Errors import DataError
from MLPipeline.files.TensorFile import load_file
from MLPipeline.files.TensorOutline import TensorOutline, read_outline
from tests.support.hostile_files import Call, Claim, Storage, pickled, write_archive

FLOATS = Storage("s", 6)
NUMBERS = torch.arange(6.0).numpy().tobytes()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that fills with the files that torch.load has been called for."""
    calls: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **options: (calls.append(file), load(file, **options))[1])
    return calls


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < len(str(path)) + 350
    return str(caught.value)


def outlined(value: Any) -> Any:
    """Return what the outline of `value` must be: (shape, type) in place of tensors."""
    if isinstance(value, (torch.Tensor, TensorOutline)):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: outlined(each) for key, each in value.items()}
    return [outlined(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("is_zip", [True, False])
def test_an_outline_has_the_containers_shapes_and_types_of_what_torch_loads(tmp_path: Path, is_zip: bool) -> None:
    model, path = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tmp_path / "model.pt"
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    whole = torch.arange(24).view(4, 6)
    content = {
        "model": model.state_dict(),
        "parameters": list(model.parameters()),
        "optimizer": optimizer.state_dict(),
        "views": (whole[:, ::2], whole.T, whole[0, 0], torch.empty(0, 5), torch.randn(2, 3, 4, 4).half()),
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "types": [torch.tensor([True]), torch.tensor(1j), torch.tensor([1], dtype=torch.bfloat16)],
        "plain": [None, True, False, 1, -1, 300, 2**40, -(2**70), 0.1, float("inf"), "K\u00e4se", (), {}, (1, 2, 3, 4)],
        "size": whole.shape,
    }
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with path.open("rb") as file:
        assert outlined(read_outline(file)) == outlined(content)
    loaded: Any = load_file(path)
    assert torch.equal(loaded["views"][1], whole.T) and isinstance(loaded["model"], OrderedDict)


def test_tied_weights_are_one_tensor(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    torch.save({"a": weight, "b": weight}, tmp_path / "model.pt")
    loaded: Any = load_file(tmp_path / "model.pt")
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Claim(FLOATS, (10**9,), (1,)), "a tensor larger than what is stored of it"),
        (Claim(FLOATS, (6,), (1,), offset=1), "a tensor larger than what is stored of it"),
        (Claim(FLOATS, (2, 3), (4, 1)), "a tensor larger than what is stored of it"),
        (Claim(FLOATS, (10**9, 6), (0, 1)), "an expanded tensor"),
        (Claim(FLOATS, (3, 3), (1, 1)), "an expanded tensor"),
        (Claim(FLOATS, (-6,), (1,)), "a tensor of impossible shape"),
        (Claim(FLOATS, (6,), (-1,)), "a tensor of impossible shape"),
        (Claim(FLOATS, (6,), (1, 1)), "a tensor of impossible shape"),
        (Claim(Storage("s", 10**9), (6,), (1,)), "another size than said in part s"),
        (Claim(Storage("s", 5), (5,), (1,)), "another size than said in part s"),
        (Claim(Storage("absent", 6), (6,), (1,)), "another size than said in part absent"),
        (Claim(Storage("../../s", 6), (6,), (1,)), "another size than said in part ../../s"),
        ([Claim(FLOATS, (6,), (1,)), Claim(Storage("s", 6, torch.DoubleStorage), (6,), (1,))], "two different sizes"),
        ({"a": Call(bytearray, 10**12)}, "bytes that are not given"),
        ({"a": Call(torch.FloatTensor, 10**12)}, "'torch.FloatTensor', which could run any code"),
        ({"a": Call(print, "hello")}, "'builtins.print', which could run any code"),
        ({"a": torch.strided}, "'torch.serialization._get_layout'"),
    ],
)
def test_a_claim_that_the_file_does_not_meet_is_refused_unread(
    tmp_path: Path, loads: list[object], content: object, reason: str
) -> None:
    write_archive(tmp_path / "model.pt", Claim(FLOATS, (2, 3), (3, 1)), s=NUMBERS)
    assert torch.equal(load_file(tmp_path / "model.pt"), torch.arange(6.0).view(2, 3))  # type: ignore[arg-type]
    loads.clear()
    if reason == "'torch.serialization._get_layout'":
        reason = "contains a tensor that is not read: one that torch.serialization._get_layout makes"
    write_archive(tmp_path / "model.pt", content, s=NUMBERS)
    assert reason in refusal(tmp_path / "model.pt")
    assert not loads


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "convert",
    [
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: tensor.to(torch.uint16),
    ],
    ids=["meta", "sparse", "quantized", "uint16"],
)
def test_tensors_that_are_not_dense_are_refused(
    tmp_path: Path, loads: list[object], convert: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.save({"weight": convert(torch.eye(3))}, tmp_path / "model.pt")
    assert "contains a tensor that is not read" in refusal(tmp_path / "model.pt")
    assert not loads


def test_compressed_parts_are_refused_unread(tmp_path: Path, loads: list[object]) -> None:
    bomb = Claim(Storage("s", 10**7), (10**7,), (1,))
    path = write_archive(tmp_path / "model.pt", bomb, zipfile.ZIP_DEFLATED, s=bytes(4 * 10**7))
    assert path.stat().st_size < 10**5
    assert "a compressed part" in refusal(path) and not loads


def test_parts_that_lie_over_each_other_are_refused_unread(tmp_path: Path, loads: list[object]) -> None:
    """A central directory may name the same bytes many times: a zip bomb without compression."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled({}))
        archive.writestr("model/data/0", bytes(10**5))
        twin = archive.getinfo("model/data/0")
        for number in range(1, 50):
            part = zipfile.ZipInfo(f"model/data/{number}")
            part.header_offset, part.file_size, part.compress_size = twin.header_offset, twin.file_size, twin.file_size
            part.CRC = twin.CRC
            archive.filelist.append(part)
            archive.NameToInfo[part.filename] = part
    assert "parts larger than the file" in refusal(path) and not loads


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"\x80\x02" + b"]" * (17 * 2**20) + b".", "far too large"),
        (b"\x80\x02}" + b"()\x85" * 100 + b"K\x01s.", "cannot be read"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "cannot be read"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "cannot be read"),  # bytes of 2**63
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "cannot be read"),
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "'os.system', which could run any code"),
        (b"\x80\x02cposix\nsystem\n.", "'posix.system', which could run any code"),
        (b"\x80\x02(X\x01\0\0\0aios\nsystem\n.", "cannot be read"),  # INST, an old instruction
        (b"\x80\x02}X\x01\0\0\0aK\x01\x85R.", "a call of no function"),
        (b"\x80\x02]}b.", "attributes of what has none"),
        (b"", "cannot be read"),
    ],
)
def test_a_pickle_written_by_hand(tmp_path: Path, loads: list[object], code: bytes, reason: str) -> None:
    assert reason in refusal(write_archive(tmp_path / "model.pt", code))
    assert not loads


def test_keys_that_take_for_ever_to_hash(tmp_path: Path) -> None:
    nested: tuple = ()
    for _ in range(60):
        nested = (nested, nested)  # 2**60 tuples, of which 60 are stored
    code = pickle.PROTO + b"\x02}" + b")" + b"q\0h\0\x86" * 60 + b"K\x01s."
    assert "a key that is neither a text nor a number" in refusal(write_archive(tmp_path / "model.pt", code))


def legacy(path: Path, length: int, shape: tuple[int, ...], extra: bytes = b"") -> Path:
    """Write a file in the format of before PyTorch 1.6 that claims to hold `length` numbers, and holds six."""
    torch.save({"weight": torch.arange(6.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for old, new in (((6,), (length,)), ((6,), shape)):
        content = content.replace(b"K" + bytes(old), b"J" + new[0].to_bytes(4, "little"), 1)
    path.write_bytes(content + extra)
    return path


@pytest.mark.parametrize(
    ("length", "shape", "extra"), [(2 * 10**9, (6,), b""), (6, (7,), b""), (6, (2 * 10**9,), b""), (6, (6,), b"x")]
)
def test_an_old_file_that_claims_more_than_it_holds(
    tmp_path: Path, loads: list[object], length: int, shape: tuple[int, ...], extra: bytes
) -> None:
    load_file(legacy(tmp_path / "model.pt", 6, (6,)))
    loads.clear()
    assert "cannot be read" in refusal(legacy(tmp_path / "model.pt", length, shape, extra))
    assert not loads


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": ENTRY | {"shape": [10**9]}}, "has another size than its shape"),
        ({"a": ENTRY | {"data_offsets": [0, 10**12], "shape": [25 * 10**10]}}, "have another size than the file"),
        ({"a": ENTRY | {"data_offsets": [24, 0]}}, "another size"),
        ({"a": ENTRY | {"data_offsets": [4, 28]}}, "overlap, or have gaps"),
        ({"a": ENTRY, "b": ENTRY}, "overlap, or have gaps"),
        ({"a": ENTRY | {"dtype": "F4"}}, "contains a tensor that is not read: one of type F4"),
        ({"a": ENTRY | {"dtype": ["F32"]}}, "contains a tensor that is not read"),
        ({"a": ENTRY | {"shape": [2.0, 3]}}, "an impossible shape"),
        ({"a": ENTRY | {"shape": [True, 6]}}, "an impossible shape"),
        ({"a": ENTRY | {"more": 1}}, "is not described"),
        ({"a": [1]}, "is not described"),
        ({"__metadata__": 3}, "describes no tensors"),
        ([1], "describes no tensors"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "has the name 'a' twice"),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path: Path, header: object, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    for content in ({"a": ENTRY}, header):
        text = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + NUMBERS)
        if content is not header:
            loaded: Any = load_file(path)
            assert torch.equal(loaded["a"], torch.arange(6.0).view(2, 3))
    assert reason in refusal(path)


@pytest.mark.parametrize("length", [0, 1, 10**9, 2**63])
def test_a_safetensors_header_of_impossible_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + NUMBERS)
    assert "an impossible length" in refusal(path)
