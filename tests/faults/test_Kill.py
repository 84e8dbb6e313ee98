"""Row 48 of the fault matrix: a run that is killed at any moment and resumed equals an uninterrupted one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.crash import MOMENTS, Blow, Ended, result, run_struck
from tests.support.harness import content

MakeImages = Callable[..., Path]
RECIPES = {
    "whole network": "--model cnn --image-size 8 --epochs 2 -b 4 --ema 0.9 --schedule cosine --augment crop,mixup",
    "head, then all": "--model made_up --unfreeze-after 1 --epochs 3 -b 4 --ema 0.9 --layer-decay 0.5",
}
NUM_BLOWS, NUM_SHOTS = 28, 6  # kills at chosen calls (each kind of moment in both recipes), and by the clock
KILLED = -9

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A command that can be killed, and the result of the uninterrupted run."""

    root: Path
    flags: tuple[str, ...]
    data: Path
    whole: dict[str, Any]
    reference: Ended

    def trial(self, number: int, forgets: bool = False, **how: Any) -> tuple[Ended, Ended, dict[str, Any]]:
        """Return the outcome of the `number`-th command, the outcome of the one that resumes it, and their result."""
        output = self.root / str(number)
        struck = self.run(output, **how)
        return struck, self.go_on(output, forget_optimizer=forgets), result(output)

    def run(self, output: Path, **how: Any) -> Ended:
        return self._run([*self.flags, "--name", "run", "--data", self.data, "--output", output], how)

    def go_on(self, output: Path, **how: Any) -> Ended:
        if not (output / "001-run" / "config.json").exists():  # killed before the run had begun
            return self.run(output, **how)
        return self._run(["--resume", "1", "--output", output], how)

    def _run(self, argv: list[str | Path], how: dict[str, Any]) -> Ended:
        return run_struck(argv, self.root / "log.txt", **how)


@pytest.fixture(scope="module", params=RECIPES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages
) -> Iterator[Case]:
    root = tmp_path_factory.mktemp("kill")
    data = make_images(root / "Data", {"cat": 8, "dog": 8}, size=16)
    flags = (*RECIPES[request.param].split(), "--device", "cpu", "-j", "1")
    before = content(data)
    case = Case(root, flags, data, {}, Ended(0, "", 0.0, {}))
    ended = case.run(root / "whole")
    assert ended.code == 0, ended.text
    assert [moment for moment, number in ended.calls.items() if not number] in ([], ["head"])  # of one phase alone
    yield Case(root, flags, data, result(root / "whole"), ended)
    assert content(data) == before


def blows(calls: dict[str, int], number: int) -> list[Blow]:
    """Return kills at random calls of each moment in turn."""
    draw = random.Random(0)
    moments = [moment for moment in MOMENTS if calls[moment]]
    found: dict[Blow, None] = {}
    for moment in itertools.cycle(moments):
        whens = ["before", "after"] + ["amid"] * (moment == "save")
        found[Blow(moment, draw.randint(1, calls[moment]), draw.choice(whens))] = None
        if len(found) == number:
            return list(found)
    raise AssertionError


def test_killed_at_any_call_it_is_resumed_to_the_same_result(case: Case) -> None:
    chosen = blows(case.reference.calls, NUM_BLOWS // len(RECIPES))
    assert {blow.moment for blow in chosen} == {moment for moment, number in case.reference.calls.items() if number}
    for number, blow in enumerate(chosen):
        struck, resumed, found = case.trial(number, blow=blow)
        assert struck.code == KILLED, f"{blow}: {struck.text}"
        assert resumed.code == 0, f"{blow}: {resumed.text}"
        assert found == case.whole, blow


def test_killed_at_any_time_it_is_resumed_to_the_same_result(case: Case) -> None:
    num_killed = 0
    for number, share in enumerate(np.random.default_rng(0).uniform(0, 1, NUM_SHOTS // len(RECIPES))):
        struck, resumed, found = case.trial(100 + number, kill_after_s=share * case.reference.seconds)
        num_killed += struck.code == KILLED
        assert resumed.code == 0, resumed.text
        assert found == case.whole, share
    assert num_killed  # on a busy machine, a run may end before its kill is due


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_result(case: Case) -> None:
    output, blow = case.root / "again", Blow("step", 3)  # three steps at a time
    assert case.run(output, blow=blow).code == case.go_on(output, blow=blow).code == KILLED
    assert case.go_on(output).code == 0
    assert result(output) == case.whole


def test_an_optimizer_that_forgets_shows(case: Case) -> None:
    """A negative control: if the optimizer state is lost, the weights differ, and the tests above would see it."""
    last_step = Blow("step", case.reference.calls["step"])
    struck, resumed, found = case.trial(1000, blow=last_step, forgets=True)
    assert struck.code == KILLED and resumed.code == 0
    assert found["weights"] != case.whole["weights"]
    assert found["splits.csv"] == case.whole["splits.csv"]
