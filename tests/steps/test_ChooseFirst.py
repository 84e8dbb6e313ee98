"""`--model auto`: a run that chooses its backbone once, says why, and never chooses again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from MLPipeline.choosing import Backbones
from MLPipeline.choosing.Choice import Choice
from MLPipeline.commands.CommandLine import parse
from MLPipeline.Config import Config
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.Models import find_model
from MLPipeline.steps import ChooseFirst
from MLPipeline.steps.ChooseFirst import choose_first, chosen_settings, table_lines
from tests.support.choice_cases import choice
from tests.support.harness import Outcome, refuse, succeed
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]
AUTO = ["--model", "auto", "--image-size", "32", "-j", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("auto")
    make_images(root / "Data", {"cat": 12, "dog": 12})
    return root / "output"


@pytest.fixture(scope="module")
def trained(output: Path) -> Outcome:
    here = {find_model(name).pretrained: ROOT / "Engine.py" for name in ("efficientnet_lite0", "efficientnet_lite1")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbones, "file_at_hand", here.get)
        return succeed([*AUTO, "--data", output.parent / "Data", "--output", output, "--name", "auto"])


def content(output: Path, name: str, file: str) -> dict[str, Any]:
    (path,) = output.glob(f"*-{name}/{file}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_run_has_the_chosen_model_and_says_why(output: Path, trained: Outcome) -> None:
    metrics, settings = content(output, "auto", "metrics.json"), content(output, "auto", "config.json")
    found = metrics["choice"]
    assert found == content(output, "auto", "choice.json")
    assert len(found["backbones"]) == 2 and {row["image_size"] for row in found["backbones"]} == {32}
    assert settings["model"] == metrics["model"] == found["chosen"]["model"]
    assert settings["model"].startswith("efficientnet_lite") and settings["image_size"] == 32
    line = f"chosen   {settings['model']} at 32 pixels: {found['reason']}"
    assert line in trained.out and line in (output / "001-auto" / "train.log").read_text(encoding="utf-8")
    assert (output / "001-auto" / "choice.html").stat().st_size > 10_000
    assert trained.out.index("rule ") < trained.out.index("run  ")


def test_a_resumed_run_and_a_repeated_one_do_not_choose_again(
    output: Path, trained: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> Choice:
        raise AssertionError

    monkeypatch.setattr(ChooseFirst, "choose_backbone", never)
    before, stopped = content(output, "auto", "metrics.json"), output / "002-stopped"
    shutil.copytree(output / "001-auto", stopped)
    (stopped / "metrics.json").unlink()
    succeed(["--resume", stopped, "--output", output])
    again = content(output, "stopped", "metrics.json")
    assert (again["test"], again["choice"]) == (before["test"], before["choice"])
    _, repeated = parse(["--config", str(output / "001-auto" / "config.json")])
    assert repeated.model == before["model"] and choose_first(repeated) == (repeated, None)
    refuse(
        ["--resume", stopped, "--model", "auto", "--output", output], 2, "--model auto: the run was started with eff"
    )


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", 2)
    with pytest.raises(UsageError, match=r"--model auto: .* not under torchrun\. Run python Engine.py choose first"):
        choose_first(Config(model="auto"))


@pytest.mark.parametrize("weights", ["none", "my.pth"])
def test_weights_of_one_model_are_refused(weights: str) -> None:
    with pytest.raises(UsageError, match=rf"--weights {weights}: with --model auto"):
        choose_first(Config(model="auto", weights=weights))


def test_other_verbs_take_the_name_of_a_model() -> None:
    refuse(["tune", "--model", "auto"], 2, "--model auto: no such model")


def test_the_time_for_the_choice_is_a_part_of_that_for_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def watched(config: Config, backbones: object, minutes: float) -> Choice:
        given.append((config.folds, minutes))
        return choice()

    monkeypatch.setattr(ChooseFirst, "choose_backbone", watched)
    for config in (Config(model="auto", folds=5), Config(model="auto", time=8.0), Config(model="auto", time=600.0)):
        assert choose_first(config)[0].model == "efficientnet_lite0"
    assert given == [(None, 5.0), (None, 2.0), (None, 5.0)]


def test_the_head_alone_is_trained_unless_more_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_settings(Config(model="auto"), choice()).freeze is None  # the model's own: the backbone
    fine_tuned = choice()
    object.__setattr__(fine_tuned.chosen.backbone, "model", "efficientnet_b0")  # all layers are trained by default
    assert chosen_settings(Config(model="auto"), fine_tuned).freeze == "backbone"
    for stated in ({"freeze": "none"}, {"unfreeze_after": 3}, {"time": 20.0}):
        config = Config(model="auto", **stated)
        assert chosen_settings(config, fine_tuned).freeze == config.freeze


def test_the_table_is_aligned() -> None:
    title, *rows = table_lines(choice())[1:5]
    assert title == "model               pixels  accuracy  difference (95 % interval)  ms/image    MB  images"
    assert rows[0] == "efficientnet_lite2     260    90.0 %  best                            20.0  19.5   1,000"
    assert rows[1].startswith("efficientnet_lite0     200    89.8 %  -0.2 (-") and rows[1].endswith(
        "10.0  13.7   1,000"
    )
    assert rows[2].startswith("resnet18               200    60.0 %  -40.0 (-") and rows[2].endswith(
        "15.0  44.7      50"
    )
    assert {len(row) for row in rows} == {len(title)}
