"""Suggestions: sorted by the expected gain, at most five, each with a command that can be typed."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from MLPipeline.advice.Suggestions import Known, Suggestion, suggestion_lines, suggestions
from MLPipeline.commands.CommandLine import parse
from MLPipeline.Config import Config
from MLPipeline.Models import find_model
from MLPipeline.training.Phases import resolve

LITE = resolve(Config(model="efficientnet_lite0", data=Path("Data")), find_model("efficientnet_lite0"))
CURVE: dict[str, Any] = {"next_images": 80, "gain": 0.012, "gain_ci95": [-0.001, 0.025], "class_gains": {"cat": 0.02}}
TTA: dict[str, Any] = {"is_better": True, "accuracy": 0.8, "tta_accuracy": 0.804, "num_images": 250}
ALL = Known(LITE, "output/001-lite", False, 0.8, 100, CURVE, 5, TTA, "only 30 test images")


def test_the_largest_expected_gain_comes_first_and_five_are_shown() -> None:
    found = suggestions(ALL)
    assert [each.what.split(",")[0].split(";")[0] for each in found] == [
        "fine-tuning",
        "decide on 5 labels that look wrong",
        "80 more images",
        "average over each image and its mirror image",
        "compare backbones on these images",
    ]
    assert [each.gain for each in found[1:4]] == [(0.0, 0.05), (-0.001, 0.025), (pytest.approx(0.004),) * 2]
    assert found[0].gain == (pytest.approx(0.07), pytest.approx(0.192))


def test_what_is_not_known_is_not_said() -> None:
    bare = Known(LITE, "output/001-lite", False, None)
    assert [each.what for each in suggestions(bare)] == ["compare backbones on these images"]
    found = suggestions(replace(bare, few_tested="only 9 test images"))
    assert found[-1].command == "python Engine.py --model efficientnet_lite0 --folds 5"
    tuned = replace(LITE, freeze="stage3", unfreeze_after=3)
    found = suggestions(replace(bare, config=tuned, few_tested="only 9 test images"))
    assert found[-1].command == "python Engine.py --config output/001-lite/config.json --folds 5"
    assert found[-1].what.endswith("in 6 times the time")
    assert not suggestions(replace(bare, config=replace(tuned, time=20.0), few_tested="only 9 test images"))
    assert suggestions(replace(ALL, accuracy=1.0))[0].what != "fine-tuning"
    assert not any("mirror" in each.what for each in suggestions(replace(ALL, tta=TTA | {"is_better": False})))


def test_no_gain_is_promised_where_the_head_is_no_better_than_chance() -> None:
    found = suggestions(replace(ALL, accuracy=0.5, curve=None, tta=None, beats_baseline=False))
    tuning = next(each for each in found if each.what == "fine-tuning")
    assert tuning.gain is None and found.index(tuning) > 0 and tuning.command.endswith("--unfreeze-after 3")
    assert "points" not in tuning.to_text() and "not significantly better" in tuning.to_text()


def test_values_that_look_like_flags_can_be_typed_again() -> None:
    config = replace(LITE, group=r"-(\d+)-", output=Path("-runs"))
    for each in suggestions(replace(ALL, config=config, tta=None)):
        words = shlex.split(each.command)[2:]
        if "PHOTOS" not in words:
            _, again = parse(words)
            assert (again.group, again.output) == (config.group, config.output)


def test_a_run_from_scratch_is_sent_to_imagenet_weights_only() -> None:
    config = resolve(Config(model="cnn", data=Path("a b")), find_model("cnn"))
    (only,) = suggestions(Known(config, "output/001-cnn", True, 0.5))
    assert only.command == "python Engine.py --model efficientnet_lite2 --data 'a b'" and only.gain is None


def test_commands_can_be_typed() -> None:
    config = replace(LITE, data=Path("my photos"), image_size=128, seed=3, split_folders="no", follow_links=True)
    words = "--model efficientnet_lite0 --data 'my photos' --split-folders no --follow-links --seed 3 --image-size 128"
    found = suggestions(replace(ALL, config=config, curve=None, tta=None))
    assert found[0].command == f"python Engine.py {words} --unfreeze-after 3"
    for each in (*found, *suggestions(ALL)):
        command = shlex.split(each.command)
        assert command[:2] == ["python", "Engine.py"]
        parse(command[2:])


def test_lines_for_the_console() -> None:
    lines = suggestion_lines(suggestions(ALL))
    assert lines[0].startswith(
        "improve  fine-tuning: +7.0 to +19.2 points (on two other data sets it removed 35 to 96 %"
    )
    assert lines[1].startswith("             python Engine.py --model efficientnet_lite0")
    assert lines[2:4] == [
        "         decide on 5 labels that look wrong: up to +5.0 points (if all of these are wrong)",
        "             python Engine.py audit",
    ]
    assert "80 more images, which help cat most; then ask again: -0.1 to +2.5 points" in lines[4]
    assert lines[6].startswith("         average over each image and its mirror image, at twice the time: +0.4 points")
    assert lines[8:] == ["         compare backbones on these images", "             python Engine.py choose"]
    assert suggestion_lines([]) == []


def test_no_estimate_comes_after_any_estimate() -> None:
    assert Suggestion("a", "b").expected < Suggestion("a", "b", (-0.9, -0.1)).expected
