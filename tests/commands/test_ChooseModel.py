"""`choose`: from folders of images to the command that trains the chosen backbone, without a look at other images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from MLPipeline.choosing import Prober
from MLPipeline.commands.ChooseModel import command_of
from MLPipeline.commands.CommandLine import parse
from MLPipeline.Config import Config
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ScanFolders import TEST, TRAIN, VAL
from MLPipeline.steps import FitPhases
from tests.support.choice_cases import choice
from tests.support.harness import Outcome, refuse, succeed

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> list[str]:
    root = tmp_path_factory.mktemp("choose")
    make_images(root / "Data", {"bird": 12, "cat": 12, "dog": 12})
    return ["--data", str(root / "Data"), "--output", str(root / "output"), "-j", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def given() -> list[Dataset]:
    """What the backbones were tested on."""
    return []


@pytest.fixture(scope="module")
def chosen(flags: list[str], given: list[Dataset]) -> Outcome:
    def watched(*arguments: Any, **named: Any) -> Dataset:
        given.append(extract(*arguments, **named))
        return given[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prober, "extract", watched)
        return succeed(["choose", "--models", "efficientnet_lite0,efficientnet_lite1", "--sizes", "32", *flags])


def test_only_training_images_are_read(chosen: Outcome, given: list[Dataset]) -> None:
    assert len(given) == 2
    for dataset in given:
        assert [len(dataset.index.positions(split)) for split in (TRAIN, VAL, TEST)] == [24, 0, 0]
        assert len(dataset.rows.stored) == 24  # nothing else has features in the cache
    assert "choose   2 backbones on 24 training images" in chosen.out


def test_the_table_has_both_with_the_same_images(chosen: Outcome, flags: list[str]) -> None:
    folder = Path(flags[3]) / "choose"
    content = json.loads((folder / "choice.json").read_text(encoding="utf-8"))
    rows = content["backbones"]
    assert {row["model"] for row in rows} == {"efficientnet_lite0", "efficientnet_lite1"}
    assert all((row["image_size"], row["images"], row["tested"]) == (32, 24, 24) for row in rows)
    assert rows[0]["accuracy"] >= rows[1]["accuracy"] > 0.5
    assert rows[1]["difference"] == pytest.approx(rows[1]["accuracy"] - rows[0]["accuracy"], abs=1e-4)
    assert rows[1]["difference_low"] < rows[1]["difference"] < rows[1]["difference_high"]
    assert {row["model"]: row["megabytes"] for row in rows} == {"efficientnet_lite0": 13.7, "efficientnet_lite1": 16.8}
    assert all(0 < row["seconds_per_image"] < 10 for row in rows)
    assert pd.read_csv(folder / "choice.csv")["model"].tolist() == [row["model"] for row in rows]
    assert "<svg" in (folder / "choice.html").read_text(encoding="utf-8")
    for row in rows:
        assert f"{row['model']}      32" in chosen.out


def test_the_last_line_trains_it_and_computes_only_the_features_of_other_images(
    chosen: Outcome, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def watched(*arguments: Any, **named: Any) -> Dataset:
        dataset = extract(*arguments, **named)
        computed.append(dataset.num_computed)
        return dataset

    monkeypatch.setattr(FitPhases, "extract", watched)
    *_, last = chosen.out.splitlines()
    words = shlex.split(last.removeprefix("next"))
    assert words[:2] == ["python", "Engine.py"]
    succeed(words[2:])
    assert computed == [12]  # of 36
    (run,) = Path(flags[3]).glob("[0-9]*")
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    content = json.loads((Path(flags[3]) / "choose" / "choice.json").read_text(encoding="utf-8"))
    assert {name: settings[name] for name in ("model", "image_size")} == {
        name: content["chosen"][name] for name in ("model", "image_size")
    }
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["choice"] is None  # the user named it


def test_the_command_repeats_what_was_stated() -> None:
    config = Config(data=Path("My Data"), seed=3, val_fraction=0.2, fit="pad", minutes=2.0, models="a,b")
    words = shlex.split(command_of(config, choice()))
    assert words[:4] == ["python", "Engine.py", "--model", "efficientnet_lite0"]
    verb, parsed = parse(words[2:])
    assert (verb, parsed.data, parsed.seed, parsed.val_fraction, parsed.fit) == (
        "train",
        Path("My Data"),
        3,
        0.2,
        "pad",
    )
    assert (parsed.image_size, parsed.freeze) == (None, None)  # the model's own


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--models", "efficientnet_lite9"], 2, "--models efficientnet_lite9"),
        (["--sizes", "big"], 2, "--sizes big"),
        (["--models", "efficientnet_lite0", "--sizes", "16"], 2, "--image-size 16: too small for efficientnet_lite0"),
        (["--minutes", "0"], 2, "--minutes"),
        (["--image-size", "64"], 2, "--image-size: choose has no such flag"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_done_is_refused(flags: list[str], words: list[str], code: int, message: str) -> None:
    refuse(["choose", *words, *flags], code, message)


def test_images_that_are_all_copies_cannot_be_compared_on(tmp_path: Path, make_images: MakeImages) -> None:
    make_images(tmp_path / "Data" / "train", {"cat": 1, "dog": 1})
    make_images(tmp_path / "Data" / "val", {"cat": 2, "dog": 2}, seed=1)
    make_images(tmp_path / "Data" / "test", {"cat": 2, "dog": 2}, seed=2)
    argv = ["choose", "--data", tmp_path / "Data", "--output", tmp_path / "output"]
    refuse(argv, 2, "no class has two training images that are not copies", "--model efficientnet_lite0")
