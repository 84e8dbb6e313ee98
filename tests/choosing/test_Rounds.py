"""The comparison within a given time: all on all images, or rounds; and what fails is left out."""

from __future__ import annotations

import math

import pytest

from MLPipeline.choosing.Choice import Choice
from MLPipeline.choosing.Rounds import compare_backbones
from MLPipeline.Errors import DataError, ResourceError
from tests.support.choice_cases import MadeUp, backbone

COSTS = {"small": 0.01, "middle": 0.02, "large": 0.04}
WRONG = {"small": 0.3, "middle": 0.2, "large": 0.05}


def compare(tests: MadeUp, minutes: float, names: tuple[str, ...] = ("large", "small", "middle")) -> Choice:
    return compare_backbones([backbone(name) for name in names], tests, minutes, 1234, tests.clock)


def names(choice: Choice) -> list[str]:
    return [each.backbone.model for each in choice.results]


def test_with_enough_time_all_are_tested_on_all_images() -> None:
    tests = MadeUp(COSTS, WRONG)
    choice = compare(tests, minutes=5)
    assert tests.calls == [("small", 1000), ("middle", 1000), ("large", 1000)]
    assert names(choice) == ["large", "middle", "small"] and choice.chosen is choice.best
    assert [each.accuracy for each in choice.results] == pytest.approx([0.95, 0.8, 0.7])
    assert [each.num_tested for each in choice.results] == [1000] * 3 and all(e.is_finalist for e in choice.results)
    assert (choice.num_images, choice.minutes, choice.seconds) == (1234, 5, pytest.approx(70))
    assert choice.left_out == ()


def test_with_little_time_the_less_accurate_half_is_left_out_after_each_round() -> None:
    tests = MadeUp(COSTS, WRONG)
    choice = compare(tests, minutes=0.5)
    first, second = tests.calls[0][1], tests.calls[-1][1]
    assert tests.calls == [*((n, first) for n in ("small", "middle", "large")), ("middle", second), ("large", second)]
    assert 100 < first < second < 1000
    assert names(choice) == ["large", "middle", "small"]
    assert [each.num_images for each in choice.results] == [second, second, first]
    assert [each.is_finalist for each in choice.results] == [True, True, False]
    assert choice.results[2].difference.value == pytest.approx(-0.25, abs=0.06)  # on the images of the first round
    assert choice.seconds <= 30


def test_the_time_is_kept_if_tests_take_longer_than_was_measured() -> None:
    tests = MadeUp(COSTS, WRONG, slower=3)
    choice = compare(tests, minutes=1)
    assert choice.seconds <= 60
    assert names(choice) == ["middle", "small"] and choice.left_out[0].name.startswith("large")
    assert "--minutes 1" in choice.left_out[0].reason


def test_a_slower_pace_than_measured_is_learned_after_a_round() -> None:
    tests = MadeUp(COSTS, WRONG, slower=1.7)
    choice = compare(tests, minutes=0.5)
    assert tests.calls[-1][1] > tests.calls[0][1] and choice.results[0].num_images == tests.calls[-1][1]
    assert choice.seconds <= 30 and choice.left_out == ()


def test_a_round_that_was_not_completed_does_not_decide() -> None:
    """In the second round the time is over for the larger one: the figures of the first round stand."""
    tests = MadeUp({"small": 0.02, "large": 0.04, "other": 0.03}, WRONG | {"other": 0.9}, later=3)
    choice = compare(tests, 0.5, ("small", "large", "other"))
    assert len({number for _, number in tests.calls}) == 2
    assert names(choice) == ["large", "small", "other"] and choice.chosen.backbone.model == "large"
    assert len({each.num_images for each in choice.results}) == 1 and choice.left_out == ()


def test_however_short_the_time_one_backbone_is_tested() -> None:
    tests = MadeUp({name: 100 * cost for name, cost in COSTS.items()}, WRONG)
    choice = compare(tests, minutes=0.1)
    assert tests.calls == [("small", 20)] and names(choice) == ["small"]
    assert choice.reason == "the only one that was tested"
    assert {each.name.split()[0] for each in choice.left_out} == {"middle", "large"}


def test_measuring_many_backbones_takes_at_most_a_third_of_the_time() -> None:
    tests = MadeUp(COSTS, WRONG, measuring_s=11)
    choice = compare(tests, minutes=1)
    assert names(choice) == ["large", "small"]
    assert [each.name for each in choice.left_out] == ["middle at 200 pixels"]


def test_the_faster_one_is_chosen_where_it_is_as_accurate() -> None:
    tests = MadeUp(COSTS, {"small": 0.2, "middle": 0.1, "large": 0.098})
    choice = compare(tests, minutes=5)
    assert names(choice) == ["large", "middle", "small"] and choice.chosen.backbone.model == "middle"
    assert choice.reason.startswith(
        "within 0.5 points of large at 200 pixels (90.0 instead of 90.2 %, difference -0.2 points, 95 %"
    )
    assert choice.reason.endswith("which takes 2.0 times as long")


def test_a_gain_of_a_point_counts_though_it_is_not_significant() -> None:
    choice = compare(MadeUp(COSTS, {"small": 0.04, "middle": 0.022, "large": 0.02}, num_images=200), minutes=5)
    assert choice.chosen.backbone.model == "large" and not choice.results[1].difference.is_significant
    assert choice.reason.startswith(
        "more accurate than middle at 200 pixels (90.0 instead of 89.0 %, difference +1.0 points"
    )


def test_a_significant_difference_counts_however_small_it_is() -> None:
    tests = MadeUp(COSTS, {"small": 0.2, "middle": 0.004, "large": 0.0}, num_images=100_000)
    tests.share_wrong = {name: 100 * share for name, share in tests.share_wrong.items()}  # of 100,000
    choice = compare(tests, minutes=1000)
    assert choice.chosen.backbone.model == "large" and choice.results[1].difference.is_significant
    assert choice.reason.startswith("significantly more accurate than middle at 200 pixels (100.0 instead of 99.6 %")


@pytest.mark.parametrize("fails_when_tested", [False, True])
def test_a_backbone_that_fails_is_left_out_with_the_reason(fails_when_tested: bool) -> None:
    errors = {"large": DataError("weights.pth: not a state dict", "Give others")}
    choice = compare(MadeUp(COSTS, WRONG, errors=errors, fails_when_tested=fails_when_tested), minutes=5)
    assert names(choice) == ["middle", "small"]
    assert [(each.name, each.reason) for each in choice.left_out] == [
        ("large at 200 pixels", "weights.pth: not a state dict")
    ]


def test_if_all_fail_all_reasons_are_given() -> None:
    errors = {name: ResourceError(f"{name}.pth: not here", "Download it") for name in COSTS}
    with pytest.raises(ResourceError, match=r"large: large.pth: not here; small: .*\. Download it"):
        compare(MadeUp(COSTS, WRONG, errors=errors), minutes=5)


def test_what_is_wrong_for_all_is_said_once() -> None:
    errors = dict.fromkeys(COSTS, ResourceError("output: the disk is full", "Free some space"))
    with pytest.raises(ResourceError, match=r"^output: the disk is full\. Free some space$"):
        compare(MadeUp(COSTS, WRONG, errors=errors, fails_when_tested=True), minutes=5)


def test_equally_accurate_ones_are_told_apart_by_their_cost() -> None:
    choice = compare(MadeUp(COSTS, dict.fromkeys(COSTS, 0.1)), minutes=5)
    assert names(choice) == ["small", "middle", "large"] and choice.chosen is choice.best
    assert math.isclose(choice.results[1].difference.value, 0)
    assert choice.reason == "the most accurate, and no other that was tested on as many images is cheaper"
