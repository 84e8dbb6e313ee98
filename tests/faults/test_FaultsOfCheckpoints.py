"""Rows 34 to 37, 41 and 53 of the fault matrix through the command line: damaged, dangerous and foreign model files."""

from __future__ import annotations

import errno
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from MLPipeline.Models import build_model
from tests.support.harness import SMALL, refuse, succeed, train

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's folder, to be damaged, without the checkpoint that was kept before the last."""
    shutil.copytree(trained, tmp_path / "001-cnn")
    (tmp_path / "001-cnn" / "model.pt.prev").unlink(missing_ok=True)
    return tmp_path / "001-cnn"


def uses(copied: Path, image: Path) -> list[list[str | Path]]:
    return [["predict", image, "--run", copied], ["evaluate", "--run", copied]]


@pytest.mark.parametrize("share", [0, 0.01, 0.5])
def test_a_model_file_cut_short_is_named(trained: Path, copied: Path, share: float) -> None:
    content = (copied / "model.pt").read_bytes()
    (copied / "model.pt").write_bytes(content[: int(share * len(content))])
    for argv in uses(copied, trained.parents[1] / "Data" / "cat"):
        refuse(argv, 2, str(copied / "model.pt"))


def test_a_model_file_of_another_kind_is_named(trained: Path, copied: Path) -> None:
    image, file = trained.parents[1] / "Data" / "cat", copied / "model.pt"
    file.write_text("<!DOCTYPE html><html></html>")
    refuse(["predict", image, "--run", copied], 2, str(file))
    torch.save({"weights": torch.zeros(3)}, file)
    refuse(["predict", image, "--run", copied], 2, str(file), "not a checkpoint of this pipeline")
    file.unlink()
    numbered = ["predict", image, "--output", copied.parent, "--run", "1"]
    refuse(numbered, 2, str(file), "No such file")
    file.mkdir()
    refuse(numbered, 2, str(file), "is a directory")


def test_the_one_before_is_offered_and_can_be_used(trained: Path, copied: Path) -> None:
    image, previous = trained.parents[1] / "Data" / "cat", copied / "model.pt.prev"
    shutil.copy(copied / "model.pt", previous)
    (copied / "model.pt").write_bytes(b"")
    refuse(["predict", image, "--run", copied], 2, "model.pt: is empty", f"--run {previous}")
    answers = succeed(["predict", image, "--run", previous]).out
    assert answers == succeed(["predict", image, "--run", trained]).out


def test_one_flipped_byte_of_a_tensor_is_found(trained: Path, copied: Path) -> None:
    file = copied / "model.pt"
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(file.read_bytes())
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    file.write_bytes(content)
    for argv in uses(copied, trained.parents[1] / "Data" / "cat"):
        refuse(argv, 2, str(file), "corrupt")


class Malice:
    """A pickle of this creates the file `path` where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "module"])
def test_a_malicious_file_is_refused_and_nothing_runs(trained: Path, copied: Path, tmp_path: Path, kind: str) -> None:
    file, proof = copied / "model.pt", tmp_path / "ran"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Malice(proof)))
    elif kind == "module":
        torch.save(build_model("cnn", 2, 16), file)
    else:
        torch.save({"state_dict": Malice(proof)}, file, _use_new_zipfile_serialization=kind == "zip")
    data = trained.parents[1] / "Data"
    refuse(["predict", data, "--run", copied], 2, str(file))
    refuse([*SMALL, "--data", data, "--output", tmp_path / "output", "--weights", file], 2, str(file))
    assert not proof.exists() and not (tmp_path / "output").exists()


def test_weights_of_another_architecture_say_what_differs(trained: Path, tmp_path: Path) -> None:
    flags = ["--data", trained.parents[1] / "Data", "--output", tmp_path / "output"]
    outcome = refuse([*flags, "--model", "resnet18", "--weights", trained / "model.pt"], 2, str(trained / "model.pt"))
    assert "another architecture" in outcome.err and "missing" in outcome.err


def test_a_package_that_is_absent_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    flags = [*SMALL, "--data", trained.parents[1] / "Data", "--output", tmp_path / "output"]
    refuse([*flags, "--weights", file], 3, str(file), "pip install safetensors")


@pytest.mark.parametrize("full", ["MLPipeline.Checkpoint.torch.save", "os.fsync"])
def test_a_full_disk_while_saving_leaves_everything_else_whole(
    trained: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data, output = trained.parents[1] / "Data", trained.parent
    monkeypatch.setattr(full, no_space)
    refuse([*SMALL, "--data", data, "--output", output], 3, "No space left on device", "Free space")
    monkeypatch.undo()
    broken = sorted(output.glob("[0-9]*"))[-1]
    assert not (broken / "model.pt").exists() and not list(broken.glob(".*"))  # nothing half-written
    succeed(["predict", data / "cat" / "000.png", "--output", output])  # the run before still answers
    shutil.rmtree(broken)
