"""The short form of the campaign `Kills`: one kill at each kind of moment, and some by the clock."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.campaigns.Kills import KILLED, NO_CACHE, RECIPES, TUNED, Case, Recipe, campaign
from tests.support.crash import MOMENTS, Launch, SignalAt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("tuned"), RECIPES["head, then all"])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("ranks"), RECIPES["head, then all, 2 ranks"])


@pytest.mark.parametrize("moment", MOMENTS)
def test_048_a_run_that_is_killed_is_resumed_to_the_same_result(tuned: Case, moment: str) -> None:
    """kill -9 while scanning, writing, training or drawing: the resumed run equals an uninterrupted one, bit by bit."""
    signal_at = tuned.signal_at(moment, random.Random(moment))
    killed, wrong = tuned.trial(moment, Launch(signal_at=signal_at))
    assert KILLED in killed.codes and wrong == [], signal_at


def test_048_a_half_written_checkpoint_is_never_used(tuned: Case) -> None:
    """kill -9 while a checkpoint is half written: the one before it is resumed, and nothing half-written stays."""
    killed, wrong = tuned.trial("during", Launch(signal_at=SignalAt("save", 9, "during")))
    assert KILLED in killed.codes and wrong == []


def test_048_a_run_that_is_killed_again_and_again(tuned: Case) -> None:
    """kill -9 every three steps: each `--resume` continues where the last one was killed, in the middle of an epoch."""
    killed, wrong = tuned.trial("again", Launch(signal_at=SignalAt("step", 3)), SignalAt("step", 3))
    assert KILLED in killed.codes and wrong == []


@pytest.mark.parametrize("rank", [0, 1])
def test_048_a_rank_that_is_killed(of_two: Case, rank: int) -> None:
    """kill -9 of one of two ranks in a step: the other ends with code 3, and `--resume` gives the same result."""
    killed, wrong = of_two.trial(f"rank {rank}", Launch(2, SignalAt("step", 5), rank))
    assert killed.codes[rank] == KILLED and killed.codes[1 - rank] == 3 and wrong == []


def test_048_a_run_without_cache(tmp_path: Path) -> None:
    """kill -9 at a random time or call, with nothing cached: the resumed run equals an uninterrupted one."""
    tally = campaign(Case(tmp_path, Recipe(TUNED + NO_CACHE)), 2, random.Random(0))
    assert tally.num_kills == 2 and tally.differences == []


def test_an_optimizer_state_that_is_lost_shows(tuned: Case) -> None:
    """A negative control: if the optimizer state is not resumed, the weights differ, and the tests above see it."""
    last_step = SignalAt("step", tuned.reference.calls[0]["step"])
    killed, wrong = tuned.trial("forgetful", Launch(signal_at=last_step, forget_optimizer=True))
    assert KILLED in killed.codes
    assert "weights" in wrong and "last state" in wrong and "splits.csv" not in wrong
