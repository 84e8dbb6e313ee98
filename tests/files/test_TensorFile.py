"""Rows 34 to 36 of the fault matrix: whatever the file, tensors or one line, and nothing in it is ever run."""

import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files.TensorFile import load_file

STATE = {"weight": torch.arange(2000.0), "epoch": 3, "classes": ["cat", "dog"]}


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def saved(request, tmp_path: Path) -> Path:
    torch.save(STATE, tmp_path / "model.pt", _use_new_zipfile_serialization=request.param)
    return tmp_path / "model.pt"


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught, warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        load_file(path)
    assert remarks == []
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250  # torch's own text is a page
    return caught.value.what


def test_what_was_saved_comes_back(saved: Path) -> None:
    loaded = load_file(saved)
    assert isinstance(loaded, dict)
    assert torch.equal(loaded["weight"], STATE["weight"])
    assert (loaded["epoch"], loaded["classes"]) == (3, ["cat", "dog"])


def test_a_name_that_is_not_utf8_is_read(saved: Path) -> None:
    strange = saved.with_name(os.fsdecode(b"\xff\xfe.pt"))
    try:
        saved.rename(strange)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    assert isinstance(load_file(strange), dict)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.99])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert "damaged, truncated" in error_of(saved)


def test_a_flipped_tensor_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    content[content.index(STATE["weight"].numpy().tobytes()) + 4001] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["epoch"] == 3  # torch by itself sees nothing
    assert "corrupt" in error_of(path)


@pytest.mark.slow
def test_any_flipped_bit_is_found_or_without_effect(tmp_path: Path) -> None:
    path, tensor = tmp_path / "model.pt", torch.arange(4.0)
    torch.save({"weight": tensor}, path)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")  # the archive's directory; what comes before it has checksums
    num_refused = 0
    for position in range(start, len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                loaded = load_file(path)
            except DataError:
                num_refused += 1
            else:
                assert isinstance(loaded, dict) and torch.equal(loaded["weight"], tensor), (position - start, bit)
    assert num_refused > 8 * (len(content) - start) / 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"<!DOCTYPE html><title>404</title>" * 50, "not a PyTorch file"), (b"\x80", "damaged")],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert reason in error_of(path)


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not a PyTorch file" in error_of(tmp_path / "model.pt")


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "absent.pt")
    assert "is a directory" in error_of(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        assert "not a regular file" in error_of(tmp_path / "pipe.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, is_zip: bool) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    torch.save({"weight": Malicious(canary)}, path, _use_new_zipfile_serialization=is_zip)
    assert "could run any code" in error_of(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the file was harmless, and the test proves nothing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    path, canary = tmp_path / "model.pt", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Malicious(canary), protocol))
    error_of(path)
    assert not canary.exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_whole_module_is_refused_by_name(tmp_path: Path, is_zip: bool) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt", _use_new_zipfile_serialization=is_zip)
    assert "torch.nn.modules.linear.Linear" in error_of(tmp_path / "model.pt")


def test_safetensors_are_read_where_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"weight": STATE["weight"]}, path)
    loaded = load_file(path)
    assert isinstance(loaded, dict) and torch.equal(loaded["weight"], STATE["weight"])
    path.write_bytes(path.read_bytes()[:500])
    assert "truncated" in error_of(path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ResourceError, match="pip install safetensors"):
        load_file(path)
