"""Rows 34 to 40 of the fault matrix: model files and weights that are damaged, dangerous or of another network."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from MLPipeline.Models import build_model, find_model
from tests.support.harness import SMALL, copy_run, refuse, succeed, train

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's folder, to be damaged, without the checkpoint that was kept before the last."""
    return copy_run(trained, tmp_path)


def uses(copied: Path, image: Path) -> list[list[str | Path]]:
    return [["predict", image, "--run", copied], ["evaluate", "--run", copied]]


@pytest.mark.parametrize("share", [0, 0.01, 0.5])
def test_034_a_model_file_cut_short(trained: Path, copied: Path, share: float) -> None:
    """A model file that is empty, or cut at 1 % or 50 %: exit code 2 naming the file."""
    content = (copied / "model.pt").read_bytes()
    (copied / "model.pt").write_bytes(content[: int(share * len(content))])
    for argv in uses(copied, trained.parents[1] / "Data" / "cat"):
        refuse(argv, 2, str(copied / "model.pt"))


def test_034_a_model_file_of_another_kind(trained: Path, copied: Path) -> None:
    """A model file that is HTML, a folder, missing, or of another program: exit code 2 naming the file."""
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


def test_034_the_previous_model_file_is_offered(trained: Path, copied: Path) -> None:
    """A damaged model file beside `model.pt.prev`: the previous one is offered and gives its own answers."""
    image, previous = trained.parents[1] / "Data" / "cat", copied / "model.pt.prev"
    shutil.copy(copied / "model.pt", previous)
    (copied / "model.pt").write_bytes(b"")
    refuse(["predict", image, "--run", copied], 2, "model.pt: is empty", f"--run {previous}")
    answers = succeed(["predict", image, "--run", previous]).out
    assert answers == succeed(["predict", image, "--run", trained]).out


def test_035_one_flipped_byte_of_a_tensor(trained: Path, copied: Path) -> None:
    """One flipped byte in the tensors of a model file: exit code 2, corrupt."""
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
def test_036_a_malicious_pickle(trained: Path, copied: Path, tmp_path: Path, kind: str) -> None:
    """A malicious pickle (zip or legacy format) or a pickled module: exit code 2, and none of its code runs."""
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


def test_037_weights_of_another_architecture(trained: Path, tmp_path: Path) -> None:
    """Weights of another architecture: exit code 2 with the difference."""
    flags = ["--data", trained.parents[1] / "Data", "--output", tmp_path / "output"]
    outcome = refuse([*flags, "--model", "resnet18", "--weights", trained / "model.pt"], 2, str(trained / "model.pt"))
    assert "another architecture" in outcome.err and "missing" in outcome.err


@pytest.fixture
def weights_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of downloaded weights, which does not exist yet, on a machine without a network."""

    def fail(url: str, timeout: float) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("MLPipeline.files.Download.urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def from_imagenet(trained: Path, tmp_path: Path) -> list[str | Path]:
    where = ["--data", trained.parents[1] / "Data", "--output", tmp_path / "output"]
    return ["--model", "resnet18", "--image-size", "32", "--epochs", "1", "--device", "cpu", "-j", "1", *where]


@pytest.mark.parametrize("kind", ["poisoned", "cut", "other"])
def test_039_a_wrong_file_among_the_downloaded_weights(
    weights_cache: Path, from_imagenet: list[str | Path], tmp_path: Path, kind: str
) -> None:
    """A poisoned, truncated or wrong file among the downloaded weights: exit code 3, delete it; none of it runs."""
    cached = weights_cache / Path(find_model("resnet18").pretrained.url).name
    cached.parent.mkdir(parents=True)
    if kind == "poisoned":
        torch.save({"state_dict": Malice(tmp_path / "ran")}, cached)
    else:
        cached.write_bytes(b"" if kind == "cut" else b"<html></html>")
    for weights in ("auto", "imagenet"):
        refuse([*from_imagenet, "--weights", weights], 3, str(cached), f"Delete {cached} and run again")
    assert cached.exists() and not (tmp_path / "ran").exists() and not (tmp_path / "output").exists()


def test_040_no_network(weights_cache: Path, from_imagenet: list[str | Path]) -> None:
    """No network, `--weights imagenet`: exit code 3 with the address and the place for the file, none of it partial."""
    pretrained = find_model("resnet18").pretrained
    cached = weights_cache / Path(pretrained.url).name
    refuse([*from_imagenet, "--weights", "imagenet"], 3, pretrained.url, str(cached), "--weights FILE")
    assert not weights_cache.exists()


def test_040_no_network_and_weights_auto(weights_cache: Path, from_imagenet: list[str | Path]) -> None:
    """No network, `--weights auto`: every layer is trained from scratch, which is said before training begins."""
    outcome = succeed(from_imagenet)
    said = outcome.out.index("ImageNet weights are not available")
    assert "no route to host" in outcome.out and said < outcome.out.index("epoch  train loss")
    assert not list(weights_cache.parent.rglob("*.pth"))


@pytest.mark.parametrize("content", [b"half of it", b"other content of the same length"])
def test_040_a_download_that_ends_early_or_is_wrong(
    weights_cache: Path, from_imagenet: list[str | Path], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A download that ends early or has the wrong hash: exit code 3, and no partial file stays."""

    class Response(io.BytesIO):
        length = 32  # as the server announces

    monkeypatch.setattr("MLPipeline.files.Download.urlopen", lambda url, timeout: Response(content))
    refuse([*from_imagenet, "--weights", "imagenet"], 3, find_model("resnet18").pretrained.url)
    assert not [path for path in weights_cache.rglob("*") if path.is_file()]
