"""`model.pt` gives back exactly what was saved, reads in a bare torch, and anything else is refused by name."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import Tensor

from MLPipeline.Checkpoint import ModelCard, load_checkpoint, save_checkpoint
from MLPipeline.Classifier import Classifier
from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.Head import with_roots
from MLPipeline.Models import build_model

SIZE = 8
WEIGHTS = {"kind": "imagenet", "source": "http://x/y.pth", "sha256": "ab12", "note": ""}
CARD = ModelCard("cnn", ("Käse", "cat", "=1+1"), SIZE, WEIGHTS, epoch=7, temperature=1.5, metrics={"accuracy": 0.5})


def make(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build_model("cnn", len(CARD.classes), SIZE).eval()


def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.pt", make(), CARD)
    return tmp_path / "model.pt"


def resave(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write what is in `path` again, after `change`."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_model_comes_back_bit_for_bit(saved: Path) -> None:
    model, card = load_checkpoint(saved)
    assert torch.equal(model(images()), make()(images()))
    assert not model.training
    assert (card.model, card.classes, card.image_size, card.weights) == ("cnn", CARD.classes, SIZE, WEIGHTS)
    assert (card.epoch, card.temperature, card.metrics) == (7, 1.5, {"accuracy": 0.5})
    assert card.versions["torch"] == torch.__version__


def test_a_head_on_roots_comes_back_and_is_no_head_on_features(tmp_path: Path) -> None:
    """Its tensors have other names, so that a version without roots refuses the file instead of answering wrongly."""
    model = make()
    plain = model(images())
    model.head = with_roots(model.head)
    save_checkpoint(tmp_path / "model.pt", model, replace(CARD, roots=True))
    loaded, card = load_checkpoint(tmp_path / "model.pt")
    assert card.roots and torch.equal(loaded(images()), model(images())) and not torch.equal(loaded(images()), plain)
    resave(tmp_path / "model.pt", lambda content: content.pop("roots"))
    assert "its tensors do not fit cnn" in refusal(tmp_path / "model.pt")


def test_a_bare_torch_reads_it_and_learns_all_that_using_it_takes(saved: Path) -> None:
    script = (
        "import sys, torch\n"
        "stored = torch.load(sys.argv[1], weights_only=True)\n"
        "assert not any(name.startswith('MLPipeline') for name in sys.modules)\n"
        "names = ('classes', 'model', 'image_size', 'preprocessing', 'weights', 'temperature', 'epoch', 'versions')\n"
        "print(ascii([stored[name] for name in names]), stored['state_dict']['mean'].flatten().tolist()[0])\n"
    )
    command = [sys.executable, "-c", script, str(saved)]
    done = subprocess.run(command, cwd=saved.parent, capture_output=True, text=True, check=True)
    assert r"['K\xe4se', 'cat', '=1+1'], 'cnn', 8, 'RGB, resized" in done.stdout
    assert "'kind': 'imagenet', 'source': 'http://x/y.pth', 'sha256': 'ab12'" in done.stdout
    assert f"1.5, 7, {{'python': '{sys.version.split()[0]}', 'torch': '{torch.__version__}'}}] 127.5" in done.stdout


def test_training_may_go_on_while_a_model_is_kept(saved: Path) -> None:
    frozen = make()
    frozen.freeze("backbone")
    save_checkpoint(saved, frozen, CARD)
    model, _ = load_checkpoint(saved)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.num_frozen_stages == 0


def test_a_missing_empty_or_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    assert "No such file" in refusal(path)
    path.touch()
    assert "is empty" in refusal(path)
    path.write_text("<!DOCTYPE html><title>404</title>")
    assert "cannot be read" in refusal(path)
    assert "is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.999])
def test_a_file_cut_short(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    assert "cannot be read; it is damaged, truncated" in refusal(saved)


def test_one_flipped_byte_of_a_tensor(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(saved.read_bytes())
    content[part.header_offset + 1000] ^= 1
    saved.write_bytes(content)
    torch.load(saved, weights_only=True)  # torch itself does not notice
    assert "corrupt" in refusal(saved)


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_file_is_executed(saved: Path, is_zip: bool) -> None:
    trap = saved.parent / "executed"
    content = torch.load(saved, weights_only=True) | {"metrics": Bomb(trap)}
    torch.save(content, saved, _use_new_zipfile_serialization=is_zip)
    assert "could run any code" in refusal(saved)
    saved.write_bytes(pickle.dumps(Bomb(trap)))
    refusal(saved)
    assert not trap.exists()


def test_a_whole_pickled_module(saved: Path) -> None:
    torch.save(make(), saved)
    assert "'MLPipeline.Classifier.Classifier', which could run any code" in refusal(saved)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"model": "resnet18", "image_size": 32}, "its tensors do not fit resnet18: "),
        ({"model": "resnet9000"}, "--model resnet9000: no such model. Train it again"),
        ({"classes": ["a", "b"]}, "its tensors do not fit cnn: size mismatch for head.4.bias: copying a param with "),
        ({"image_size": 16}, "its tensors do not fit cnn: size mismatch for head.1.weight: "),
        ({"state_dict": {}}, "its tensors do not fit cnn: Missing key(s) in state_dict: "),
        ({"state_dict": {"mean": "x"}}, "its tensors do not fit cnn: "),
        ({"state_dict": {3: 4}}, "its tensors do not fit cnn: "),
    ],
)
def test_tensors_of_another_model_are_refused_with_the_difference(
    saved: Path, change: dict[str, Any], difference: str
) -> None:
    resave(saved, lambda content: content.update(change))
    assert refusal(saved).startswith(f"{saved}: {difference}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "is not a checkpoint of this pipeline"),
        ({"classes": []}, "its entry classes is of type list, not a list of different names"),
        ({"classes": ["a", "a", "b"]}, "its entry classes"),
        ({"classes": ["Caf\u00e9", "Cafe\u0301", "b"]}, "its entry classes"),
        ({"classes": ["a", " ", "b"]}, "its entry classes"),
        ({"classes": [1, 2, 3]}, "its entry classes"),
        ({"classes": "abc"}, "its entry classes is 'abc', not"),
        ({"image_size": 10**9}, "its entry image_size is 1000000000, not a whole number from 1 to 4096"),
        ({"image_size": 10**500}, "its entry image_size is a huge number, not"),
        ({"image_size": -8}, "its entry image_size is -8, not"),
        ({"image_size": "8"}, "its entry image_size is '8', not"),
        ({"image_size": True}, "its entry image_size is True, not"),
        ({"temperature": 0.0}, "its entry temperature is 0.0, not a number from 0.001 to 1000"),
        ({"temperature": 1e-320}, "its entry temperature is 1e-320, not"),
        ({"temperature": float("nan")}, "its entry temperature is nan, not"),
        ({"temperature": float("inf")}, "its entry temperature is inf, not"),
        ({"temperature": 10**400}, "its entry temperature is a huge number, not"),
        ({"temperature": "hot"}, "its entry temperature is 'hot', not"),
        ({"model": ["cnn"]}, "its entry model is of type list, not"),
        ({"hidden": -5}, "its entry hidden is -5, not a whole number from 1 to 100000"),
        ({"hidden": 0}, "its entry hidden is 0, not"),
        ({"hidden": 10**6}, "its entry hidden is 1000000, not"),
        ({"hidden": 2.5}, "its entry hidden is 2.5, not"),
        ({"roots": 1}, "its entry roots is 1, not True or False"),
        ({"dropout": 5}, "its entry dropout is 5, not a number from 0 to 0.95"),
        ({"dropout": -0.1}, "its entry dropout is -0.1, not"),
        ({"epoch": -1}, "its entry epoch is -1, not"),
        ({"metrics": {"accuracy": float("nan")}}, "its entry metrics"),
        ({"metrics": {"accuracy": "high"}}, "its entry metrics"),
        ({"weights": None}, "its entry weights is None, not texts by name"),
        ({"weights": {"kind": 3}}, "its entry weights"),
        ({"versions": {"torch": "x" * 10**5}}, "its entry versions"),
        ({"fit": "zoom"}, "its entry fit is 'zoom', not one of stretch, crop, pad"),
        ({"levels": {"uint16": [5.0, 5.0]}}, "its entry levels"),
        ({"levels": {"uint16": [0, 10**400]}}, "its entry levels"),
        ({"levels": {"float": [-1.7e308, 1.7e308]}}, "its entry levels"),
        ({"state_dict": [1]}, "its entry state_dict is of type list, not tensors by name"),
    ],
)
def test_a_card_out_of_range_is_refused_by_the_name_of_the_entry(
    saved: Path, change: dict[str, Any], reason: str
) -> None:
    resave(saved, lambda content: content.update(change))
    assert refusal(saved).startswith(f"{saved}: {reason}")


@pytest.mark.parametrize("content", [{"model": "cnn"}, {}, [1], None, {"state_dict": {"a": torch.zeros(2)}}])
def test_a_file_of_torchs_that_is_no_checkpoint_of_ours(saved: Path, content: object) -> None:
    torch.save(content, saved)
    assert "is not a checkpoint of this pipeline" in refusal(saved)


def test_the_one_before_is_kept_and_offered(saved: Path) -> None:
    save_checkpoint(saved, make(seed=1), CARD)
    previous = saved.with_name("model.pt.prev")
    assert torch.equal(load_checkpoint(previous)[0](images()), make(seed=0)(images()))
    assert torch.equal(load_checkpoint(saved)[0](images()), make(seed=1)(images()))
    saved.write_bytes(b"damaged")
    assert refusal(saved).endswith(f"The previous checkpoint is kept: --run {previous}")


class FullDisk:
    """A file that has room for `room` bytes more."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("room", [0, 1_000, 50_000])
def test_a_disk_that_fills_up_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """torch reports it as a RuntimeError, "unexpected pos", that looks like a bug of ours."""
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: save(content, FullDisk(file, room)))
    with pytest.raises(ResourceError) as caught:
        save_checkpoint(saved, make(seed=1), CARD)
    assert str(caught.value).startswith(f"{saved}: cannot be written (No space left on device). ")
    assert [path.name for path in saved.parent.iterdir()] == ["model.pt"]
    assert torch.equal(load_checkpoint(saved)[0](images()), make(seed=0)(images()))


def test_a_bug_while_saving_is_not_taken_for_a_full_disk(saved: Path) -> None:
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(saved, make(seed=1), ModelCard("cnn", ("a",), SIZE, {"source": lambda: ""}))  # type: ignore[dict-item]
    assert torch.equal(load_checkpoint(saved)[0](images()), make(seed=0)(images()))
