"""Rows 100 and 101 of the fault matrix, through the command line: model files that anyone may have made."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from MLPipeline.Models import WithoutMemory, build_model
from tests.support.harness import SMALL, copy_run, refuse, succeed, train
from tests.support.hostile_files import Call, Claim, Storage, write_archive

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("strangers")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's folder, whose model file is to be changed."""
    return copy_run(trained, tmp_path)


def uses(copied: Path, trained: Path) -> list[list[str | Path]]:
    return [["predict", trained.parents[1] / "Data" / "cat", "--run", copied], ["evaluate", "--run", copied]]


def poison(tensor: torch.Tensor, number: float) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([0]), number)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden": -5}, "hidden is -5"),
        ({"dropout": 5}, "dropout is 5"),
        ({"temperature": 1e-320}, "temperature is 1e-320"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"image_size": 10**9}, "image_size is 1000000000"),
        ({"classes": ["cat", "cat"]}, "classes is"),
        ({"classes": ["cat", ""]}, "classes is"),
        ({"classes": ["a", "b", "c"]}, "is not of 3 classes"),
    ],
)
def test_100_values_out_of_range(trained: Path, copied: Path, change: dict[str, Any], reason: str) -> None:
    """A model file whose settings are out of range is refused by the name of the entry, with exit code 2."""
    file = copied / "model.pt"
    torch.save(torch.load(file, weights_only=True) | change, file)
    for argv in uses(copied, trained):
        refuse(argv, 2, str(file), reason)


@pytest.mark.parametrize(("number", "kind"), [(float("nan"), "NaN"), (float("-inf"), "an infinite number")])
def test_100_weights_that_are_no_numbers(trained: Path, copied: Path, number: float, kind: str) -> None:
    """Weights with NaN or infinite numbers are refused by the name of the layer: no answer is ever `nan %`."""
    file = copied / "model.pt"
    content = torch.load(file, weights_only=True)
    content["state_dict"]["head.4.bias"] = poison(content["state_dict"]["head.4.bias"], number)
    torch.save(content, file)
    for argv in uses(copied, trained):
        refuse(argv, 2, str(file), f"damaged: {kind} in head.4.bias")


def test_100_finite_weights_that_give_no_answer(trained: Path, copied: Path) -> None:
    """Weights so large that the answers are NaN end with exit code 2, not with `nan %`."""
    file = copied / "model.pt"
    content = torch.load(file, weights_only=True)
    for name, tensor in content["state_dict"].items():
        if name.startswith(("head", "backbone")):
            tensor.fill_(3e38)
    torch.save(content, file)
    for argv in uses(copied, trained):
        assert "nan" not in refuse(argv, 2, "the model gives NaN or infinite numbers").out


def test_100_weights_for_training_and_the_state_of_a_training(trained: Path, tmp_path: Path) -> None:
    """`--weights FILE` and `--resume` refuse NaN as well, before anything is trained."""
    data, weights = trained.parents[1] / "Data", tmp_path / "weights.pt"
    state = torch.load(trained / "model.pt", weights_only=True)["state_dict"]
    torch.save(state | {"backbone.conv1.0.bias": poison(state["backbone.conv1.0.bias"], float("nan"))}, weights)
    flags = [*SMALL, "--data", data, "--output", tmp_path / "output"]
    refuse([*flags, "--weights", weights], 2, str(weights), "damaged: NaN in backbone.conv1.0.bias")
    assert not (tmp_path / "output").exists()


def test_101_a_small_file_that_unpacks_to_gigabytes(trained: Path, copied: Path) -> None:
    """A small model file that would unpack to gigabytes is refused before any of it is read."""
    content = torch.load(copied / "model.pt", weights_only=True)
    numbers = Claim(Storage("s", 10**9), (10**9,), (1,))
    for hostile in (
        content | {"state_dict": {"mean": numbers}},
        content | {"state_dict": {"mean": Claim(Storage("s", 6), (10**9,), (0,))}},
        content | {"metrics": Call(bytearray, 4 * 10**9)},
    ):
        plain = {name: value for name, value in hostile.items() if name != "fingerprint"}
        file = write_archive(copied / "model.pt", plain, s=bytes(24))
        for argv in uses(copied, trained):
            refuse(argv, 2, str(file))
    bomb = write_archive(copied / "model.pt", {"a": numbers}, zipfile.ZIP_DEFLATED, s=bytes(4 * 10**6))
    refuse(uses(copied, trained)[0], 2, str(bomb), "a compressed part")


def test_101_a_small_file_that_names_a_huge_architecture(
    trained: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model file of a small network that names a huge one is refused before the huge one is built."""
    file = copied / "model.pt"
    torch.save(torch.load(file, weights_only=True) | {"model": "regnet_y_128gf", "image_size": 64}, file)
    monkeypatch.setattr("MLPipeline.Checkpoint._rebuild", lambda *_: pytest.fail("the model was built"))
    refuse(uses(copied, trained)[0], 2, str(file), "its tensors do not fit regnet_y_128gf")


def test_101_all_tensors_of_a_file_are_stored(trained: Path, copied: Path) -> None:
    """A file whose tensors share their numbers is refused: it could be far smaller than the network it fills."""
    file = copied / "model.pt"
    content = torch.load(file, weights_only=True)
    with WithoutMemory():
        shapes = {name: tensor.shape for name, tensor in build_model("cnn", 2, 16).state_dict().items()}
    shared = torch.zeros(max(shape.numel() for shape in shapes.values()))
    torch.save(content | {"state_dict": {name: shared[: s.numel()].view(s) for name, s in shapes.items()}}, file)
    refuse(uses(copied, trained)[0], 2, str(file), "several of its tensors are one and the same")
    succeed(["evaluate", "--run", trained])
