"""Rows 82 to 92 of the fault matrix: copies, scores over few images, mirrored classes, odd sets, large tables."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from MLPipeline.images.ImageWalk import ImageWalk
from MLPipeline.images.LabelTable import scan_table
from tests.audit.test_MirroredClasses import arrow
from tests.support import look_alikes
from tests.support.crash import prepare
from tests.support.duplicate_cases import CHANGES, duplicates_among, encode, listed, scene
from tests.support.harness import SMALL, Outcome, refuse, succeed

MakeImages = Callable[..., Path]


def train(data: Path, output: Path, *flags: str | Path) -> Outcome:
    return succeed([*SMALL, "--epochs", "1", "--data", data, "--output", output, *flags])


def metrics_of(output: Path) -> dict:
    (path,) = output.glob("001-*/metrics.json")
    return json.loads(path.read_text())


def test_082_evaluate_after_corrected_labels(tmp_path: Path, make_images: MakeImages) -> None:
    """`evaluate` of a run with `--fixes`: the figures of its `metrics.json`, to the last digit."""
    data, fixes = make_images(tmp_path / "Data", {"cat": 12, "dog": 12}), tmp_path / "fixes.csv"
    fixes.write_text("path,label\n" + "".join(f"cat/{number:03}.png,dog\n" for number in range(4)))
    train(data, tmp_path / "output", "--fixes", fixes)
    told = json.loads(succeed(["evaluate", "--output", tmp_path / "output", "--json"]).out)
    assert told == metrics_of(tmp_path / "output")["test"]
    splits = pd.read_csv(tmp_path / "output" / "001-cnn" / "splits.csv").set_index("path")["class"]
    assert (splits[[f"cat/{number:03}.png" for number in range(5)]] == "dog").tolist() == [True] * 4 + [False]


def test_083_images_that_moved_or_changed(tmp_path: Path, make_images: MakeImages) -> None:
    """`evaluate` where the images moved: found with `--data`; where they changed: exit code 2 with their number."""
    data, output = make_images(tmp_path / "Data", {"cat": 14, "dog": 14}), tmp_path / "output"
    train(data, output)
    data.rename(tmp_path / "moved")
    told = json.loads(succeed(["evaluate", "--json", "--output", output, "--data", tmp_path / "moved"]).out)
    assert told == metrics_of(output)["test"]
    make_images(data, {"cat": 14, "dog": 14}, seed=1)
    argv = ["evaluate", "--output", output]
    refuse(argv, 2, "4 of the run's 4 test images have changed", "another folder of that name", "--data")


LOOK_ALIKES = {
    "a lamp of another colour": look_alikes.lamps,
    "a spot on an X-ray picture": look_alikes.x_rays,
    "a lesion at another place": look_alikes.fields,
    "a tick in another box": look_alikes.forms,
}


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_084_pictures_that_differ_in_a_detail(tmp_path: Path, kind: str) -> None:
    """Pictures that differ in a colour, a mark, a tick or the place of an object: not reported as copies."""
    pictures = [encode(picture, ".png") for picture in LOOK_ALIKES[kind](3)[:6]]
    assert listed(duplicates_among(tmp_path, *pictures)) == set()


@pytest.mark.parametrize("change", CHANGES)
def test_085_copies_that_were_changed(tmp_path: Path, change: str) -> None:
    """A picture that was rescaled, recompressed, cropped by 3 % or made brighter: reported as a near-duplicate."""
    pictures = [scene(seed) for seed in (1, 2)]
    files = [encode(picture) for picture in pictures] + [CHANGES[change](pictures[0])]
    assert listed(duplicates_among(tmp_path, *files)) == {(0, 2)}


def test_086_087_a_group_takes_all_images_of_a_class(tmp_path: Path, make_images: MakeImages) -> None:
    """A `--group` that leaves a class without test images: named with the cause, and left out of every figure."""
    data = make_images(tmp_path / "Data", {"normal": 14, "viral": 14, "3_bacterial": 14})
    for name in ("normal", "viral"):
        for path in (data / name).iterdir():
            path.rename(path.with_stem(f"p{path.stem}_"))
    done = train(data, tmp_path / "output", "--group", r"(\d+)_")
    cause = r"images of class 3_bacterial: --group '(\d+)_' puts its 14 images into one group"
    assert any(cause in note for note in done.notes) and "the figures are over 2 of 3 classes" in done.out
    test = metrics_of(tmp_path / "output")["test"]
    assert test["per_class"]["3_bacterial"]["support"] == 0 and "majority-class baseline 50.0 %" in done.out
    figures = [each["f1"] for name, each in test["per_class"].items() if name != "3_bacterial"]
    assert test["macro_f1"] == pytest.approx(np.mean(figures))
    assert test["accuracy_ci95"][0] < test["accuracy_ci95"][1]


def test_088_classes_that_are_each_others_mirror_images(tmp_path: Path) -> None:
    """Classes that are each other's mirror images: not mirrored by default, which is said before training."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("left", "right")):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(24):
            picture = cv2.cvtColor(arrow(draw, label == 0), cv2.COLOR_GRAY2BGR)
            (tmp_path / "Data" / name / f"{number}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    flags = ["--model", "cnn_residual", "--epochs", "1", "-j", "1", "--device", "cpu"]
    said = succeed([*flags, "--data", tmp_path / "Data", "--output", tmp_path / "output"]).out
    assert "hflip is left out: mirrored left to right, " in said and "augment  translate: " in said
    assert said.index("hflip is left out") < said.index("epoch  train loss")


def test_089_a_class_called_unknown(tmp_path: Path, make_images: MakeImages) -> None:
    """A class called `unknown` and withheld answers: told apart in text, JSON and CSV."""
    data = make_images(tmp_path / "Data", {"unknown": 20, "dog": 20, "eel": 20})
    train(data, tmp_path / "output", "--target-precision", "0.9")
    command = ["predict", data, "--output", tmp_path / "output"]
    lines = [json.loads(line) for line in succeed([*command, "--json"]).out.splitlines()]
    assert len(lines) == 60 and {line["predicted"] for line in lines} <= {"unknown", "dog", "eel"}
    assert all(isinstance(line["answered"], bool) and line["predicted"] == line["top"][0]["class"] for line in lines)
    text = succeed(command).out.splitlines()
    withheld = [line.endswith("(withheld: confidence below the threshold)") for line in text]
    assert withheld == [not line["answered"] for line in lines] and any(withheld)
    succeed([*command, "--csv", tmp_path / "answers.csv"])
    table = pd.read_csv(tmp_path / "answers.csv", dtype=str)
    assert (table["answered"] == "false").tolist() == withheld


def test_090_a_property_of_much_of_the_set(tmp_path: Path) -> None:
    """A fifth of the images is dark: reported as a property of the set, without the advice to delete them."""
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(40):
            grey = 30 if number % 4 == 0 else 140
            noise = cv2.resize(draw.normal(grey, 15, (8, 8, 3)), (48, 48))
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            (tmp_path / "Data" / name / f"{number}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    argv = ["audit", "--data", tmp_path / "Data", "--output", tmp_path / "output", "--device", "cpu", "-j", "1"]
    succeed(argv)
    found = pd.read_csv(tmp_path / "output" / "audit" / "audit.csv", dtype=str, keep_default_na=False)
    dark = found[found.apply(lambda row: "dark: 20 of 80 images, 1 in 4" in " ".join(row), axis=1)]
    assert len(dark) == 1 and "delete them" not in " ".join(dark.iloc[0]).lower()


def test_091_a_table_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a million rows: read in under 1 GB (measured on fewer rows) and 20 s (measured in tests/images)."""
    number = 30_000

    def names(walk: ImageWalk, folder: Path) -> Iterator[str]:
        return (f"{folder}/images/photo_{k:07}.jpg" for k in range(number))

    monkeypatch.setattr(ImageWalk, "names", names)
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"photo_{k:07},{k % 1000:03}\n" for k in range(number)))
    scan_table(tmp_path / "labels.csv", tmp_path)  # once, for what is imported and cached
    tracemalloc.start()
    index = scan_table(tmp_path / "labels.csv", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == number and index.classes[index.labels[-1]] == "999"
    assert peak / number < 900  # bytes per row


def test_092_fine_tuning_is_kept_by_one_criterion(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning with another accuracy and another loss than the head alone: the loss decides, both are shown."""
    prepare(monkeypatch.setattr, None)
    data = make_images(tmp_path / "Data", {"cat": 16, "dog": 16})
    flags = ["--model", "made_up", "--unfreeze-after", "1", "--epochs", "3", "--device", "cpu", "-j", "1"]
    said = succeed([*flags, "--data", data, "--output", tmp_path / "output"]).out.splitlines()
    (place,) = [place for place, line in enumerate(said) if line.startswith("tuned ")]
    history = pd.read_csv(tmp_path / "output" / "001-made_up" / "history.csv")
    head, tuned = history["val_loss"][0], history["val_loss"][1:].min()
    kept = "the fine-tuned weights" if tuned < head else "the head alone"
    assert "validation loss" in said[place] and f"{head:.4f}" in said[place] and kept.split()[1] in said[place]
    assert said[place + 1].strip().startswith("validation accuracy") and "95 % interval" in said[place + 1]
    model = metrics_of(tmp_path / "output")["val"]
    assert model["n"] and min(head, tuned) == history["val_loss"].min()
