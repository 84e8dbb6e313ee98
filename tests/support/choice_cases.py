"""Made-up comparisons of backbones: what each costs and which images it classifies correctly is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from MLPipeline.choosing.Backbones import Backbone
from MLPipeline.choosing.Choice import Choice, LeftOut, Result, choose_result, difference_of
from MLPipeline.choosing.Prober import Cost, Tested, TimeIsOverError
from MLPipeline.Errors import PipelineError


def backbone(name: str, image_size: int = 200) -> Backbone:
    return Backbone(name, image_size)


def outcome_of(num_images: int, wrong: range | list[int], total: int = 0) -> Tested:
    """Return the result on the first `num_images` of `total` images, of which those in `wrong` are wrong."""
    outcomes = np.full(max(total, num_images), -1, np.int8)
    outcomes[:num_images] = 1
    outcomes[[place for place in wrong if place < num_images]] = 0
    return Tested(num_images, outcomes)


@dataclass
class MadeUp:
    """Tests whose duration is what the costs say: the clock stands still otherwise."""

    costs: Mapping[str, float]  # seconds per image
    share_wrong: Mapping[str, float]
    num_images: int = 1000
    num_needed: int = 20
    measuring_s: float = 0.0
    slower: float = 1.0  # tests take so many times as long as was measured
    later: float = 1.0  # and after the first round so many times that
    errors: Mapping[str, PipelineError] = field(default_factory=dict)
    fails_when_tested: bool = False
    now: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def measure(self, backbone: Backbone) -> Cost:
        self.now += self.measuring_s
        if backbone.model in self.errors and not self.fails_when_tested:
            raise self.errors[backbone.model]
        return Cost(self.costs[backbone.model], 10.0, 0.0)

    def test(self, backbone: Backbone, number: int, deadline: float) -> Tested:
        self.calls.append((backbone.model, number))
        if backbone.model in self.errors:
            raise self.errors[backbone.model]
        new = number - max((n for name, n in self.calls[:-1] if name == backbone.model), default=0)  # others are stored
        self.now += self.slower * (1 if new == number else self.later) * self.costs[backbone.model] * new
        if self.now > deadline:
            self.now = deadline
            raise TimeIsOverError
        wrong = np.random.default_rng(0).permutation(self.num_images) < self.share_wrong[backbone.model] * 1000
        return outcome_of(number, np.flatnonzero(wrong).tolist(), self.num_images)


def choice() -> Choice:
    """Return a choice of three backbones: the best, one that is faster and hardly worse, one left early."""
    best = outcome_of(1000, range(900, 1000))
    close, early = outcome_of(1000, range(898, 1000)), outcome_of(50, range(20), 1000)
    results = (
        Result(backbone("efficientnet_lite2", 260), Cost(0.02, 19.5, 1.0), 1000, 1000, best.accuracy, None, True),
        Result(
            backbone("efficientnet_lite0"),
            Cost(0.01, 13.7, 1.0),
            1000,
            1000,
            close.accuracy,
            difference_of(close, best),
            True,
        ),
        Result(backbone("resnet18"), Cost(0.015, 44.7, 1.0), 50, 50, early.accuracy, difference_of(early, best), False),
    )
    left_out = (LeftOut("resnet50 at 200 pixels", "<not> here"),)
    return Choice(results, choose_result(results), left_out, 1000, 5.0, 31.4)
