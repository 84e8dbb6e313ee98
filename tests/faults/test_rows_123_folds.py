"""Rows 123 and 124 of the fault matrix: cross-validation of small classes, and with other ways to run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from tests.support.forked_ranks import launch
from tests.support.harness import refuse, succeed

MakeImages = Callable[..., Path]
LITE = ["--model", "efficientnet_lite0", "--image-size", "32", "-j", "1", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "Data", {"cat": 8, "dog": 8, "owl": 3, "yak": 1})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run with four folds."""
    output = tmp_path_factory.mktemp("output")
    succeed([*LITE, "--data", data, "--output", output, "--folds", "4", "--head", "ridge", "--name", "alone"])
    return output


def content(output: Path, name: str) -> dict[str, Any]:
    (path,) = output.glob(f"*-{name}/metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_123_classes_smaller_than_the_number_of_folds_are_in_fewer_folds(output: Path) -> None:
    """A class with fewer images than folds is tested in fewer folds, a single image in none; this is said."""
    found = content(output, "alone")
    assert found["folds"] == {
        "number": 4,
        "num_images": 19,
        "classes_of_fewer_folds": {"owl": 3, "yak": 1},
        "of": "head",
        "ensemble": None,
    }
    supports = {name: each["support"] for name, each in found["test"]["per_class"].items()}
    assert supports == {"cat": 8, "dog": 8, "owl": 3, "yak": 0}
    log = (output / "001-alone" / "train.log").read_text(encoding="utf-8")
    assert "class owl has too few images that are not copies: only 3 folds test it" in log
    assert "class yak has too few images that are not copies: it is not tested" in log


def test_124_folds_with_split_folders(tmp_path: Path, make_images: MakeImages) -> None:
    """`--folds` with split folders tests the images of all of them; the validation folder is kept for calibration."""
    for split in ("train", "val", "test"):
        make_images(tmp_path / "Data" / split, {"cat": 6, "dog": 6})
    succeed([*LITE, "--data", tmp_path / "Data", "--output", tmp_path / "output", "--folds", "3", "--head", "ridge"])
    found = content(tmp_path / "output", "efficientnet_lite0")
    assert (found["val"]["n"], found["test"]["n"]) == (12, found["folds"]["num_images"])
    assert found["test"]["n"] >= 30


def test_124_folds_of_a_resumed_run(output: Path) -> None:
    """`--folds` of a run that was stopped and resumed gives the figures of an uninterrupted run."""
    resumed = output / "002-resumed"
    shutil.copytree(output / "001-alone", resumed)
    (resumed / "metrics.json").unlink()
    succeed(["--resume", resumed, "--output", output])
    assert content(output, "resumed")["test"] == content(output, "alone")["test"]


@pytest.mark.parametrize(
    "flags", [["--head", "ridge"], ["--epochs", "2"], ["--unfreeze-after", "1", "--epochs", "2"]], ids=str
)
def test_124_folds_under_torchrun(output: Path, data: Path, tmp_path: Path, flags: list[str]) -> None:
    """`--folds` under torchrun tests the same images as in one process, with the same accuracy."""
    argv = [*LITE, "--data", data, "--output", tmp_path / "output", "--folds", "4", *flags, "--name", "together"]
    code, _, err = launch(argv, tmp_path).wait()
    assert code == 0, err
    found = content(tmp_path / "output", "together")
    whole = content(output, "alone")["folds"]
    if "--unfreeze-after" in flags:  # validation images choose the epochs, and are not tested
        whole |= {"of": "network", "num_images": whole["num_images"] - found["val"]["n"]}
        whole["classes_of_fewer_folds"]["owl"] = 2  # the third is a validation image
    assert found["folds"] == whole
    if "ridge" in flags:
        assert found["test"]["accuracy"] == content(output, "alone")["test"]["accuracy"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time", "3"], "--folds 5: repeats a training, and --time plans a single one"),
        (["--ensemble", "--head", "linear"], "--ensemble: averages the heads"),
    ],
    ids=str,
)
def test_124_what_folds_cannot_do_is_refused(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    """`--folds` with `--time`, or `--ensemble` with heads by gradient descent: exit code 2 before the first step."""
    refuse([*LITE, "--data", data, "--output", tmp_path, "--folds", "5", *flags], 2, message)


def test_124_no_training_is_repeated_for_lack_of_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--folds` where the weights of the backbone cannot be had: exit code 2 before all its layers are trained."""

    def fail(url: str, timeout: float) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("MLPipeline.files.Download.urlopen", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    flags = ["--model", "resnet18", "--data", data, "--output", tmp_path / "output", "--folds", "5"]
    refuse(flags, 2, "--folds 5: resnet18 has no weights here, so all of its layers would be trained, 6 times")
