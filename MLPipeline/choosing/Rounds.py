"""Compares backbones within a given time: all on all images if the time suffices, else in rounds.

First the cost of each is measured on a few images. If testing all on all images would take too long, each round tests
those that are left on more images than the round before, and the less accurate half is left out: successive halving
(Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, arXiv:1502.07943). The
rounds share the time equally.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from MLPipeline.choosing.Backbones import Backbone
from MLPipeline.choosing.Choice import Choice, LeftOut, Result, choose_result, difference_of
from MLPipeline.choosing.Prober import Cost, Tested, TimeIsOverError
from MLPipeline.Errors import PipelineError, ResourceError

_FOR_MEASURING = 0.3  # share of the time after which no further backbone is measured
_FOR_FEATURES = 0.8  # share of the rest in which the features are planned to be computed: heads take time as well
_TIME_IS_SHORT = "no time left within --minutes {:g}"


class Tests(Protocol):
    """What `compare_backbones` needs; see `Prober`."""

    @property
    def num_images(self) -> int:
        """The largest number of images that a sample may have."""

    @property
    def num_needed(self) -> int:
        """The smallest number with which a test says anything."""

    def measure(self, backbone: Backbone) -> Cost:
        """Return what a backbone costs."""

    def test(self, backbone: Backbone, number: int, deadline: float) -> Tested:
        """Return the result of a backbone on the first `number` images of the sample."""


def compare_backbones(
    backbones: Sequence[Backbone],
    tests: Tests,
    minutes: float,
    num_images: int,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Return the comparison of `backbones`, of which one is chosen.

    At least one of them is tested, however short the time is; one that fails is left out, with the reason.

    Args:
        backbones: in the order in which they are measured.
        tests: measures and tests them.
        minutes: the time for the comparison.
        num_images: the number of training images, for the record.
        clock: returns the time in seconds.

    Raises:
        ResourceError: all of them fail.
    """
    return _Comparison(tests, minutes, clock).run(backbones, num_images)


class _Comparison:
    """The state of one comparison."""

    def __init__(self, tests: Tests, minutes: float, clock: Callable[[], float]) -> None:
        self.tests, self.minutes, self.clock = tests, minutes, clock
        self.start = clock()
        self.end = self.start + 60 * minutes
        self.costs: dict[Backbone, Cost] = {}
        self.paces: dict[Backbone, float] = {}  # seconds per new image in the last round, with everything
        self.left_out: dict[Backbone, str] = {}
        self.errors: list[PipelineError] = []
        self.rounds: list[dict[Backbone, Tested]] = []
        self.number = 0  # images in the sample of the last round
        self.is_over = False  # whether a round ended before all were tested

    def run(self, backbones: Sequence[Backbone], num_images: int) -> Choice:
        """Return the choice."""
        self._measure(backbones)
        left = self._affordable()
        num_rounds = 1 if self._fits(left, self.tests.num_images) else max(1, math.ceil(math.log2(len(left) or 1)))
        for round_number in range(num_rounds if left else 0):
            number = self._number(left, num_rounds - round_number)
            if number <= self.number or not (tested := self._test(left, number)):
                break
            self.rounds.append(tested)
            self.number = number
            left = sorted(tested, key=lambda each: -tested[each].accuracy)[: math.ceil(len(tested) / 2)]
            if self.is_over or len(left) == 1:
                break
        if not self.rounds:
            raise self._failure()
        results = self._results()
        names = tuple(LeftOut(each.to_text(), reason) for each, reason in self.left_out.items())
        return Choice(results, choose_result(results), names, num_images, self.minutes, self.clock() - self.start)

    def _measure(self, backbones: Sequence[Backbone]) -> None:
        limit = self.start + _FOR_MEASURING * 60 * self.minutes
        for backbone in backbones:
            if self.costs and self.clock() > limit:
                self.left_out[backbone] = _TIME_IS_SHORT.format(self.minutes)
                continue
            try:
                self.costs[backbone] = self.tests.measure(backbone)
            except PipelineError as error:
                self._fail(backbone, error)

    def _affordable(self) -> list[Backbone]:
        """Return the backbones for which there is time to test them on the smallest sample, the cheapest first."""
        left = sorted(self.costs, key=self._price)
        while len(left) > 1 and not self._fits(left, self.tests.num_needed):
            self.left_out[left.pop()] = _TIME_IS_SHORT.format(self.minutes)
        return left

    def _fits(self, backbones: Sequence[Backbone], number: int) -> bool:
        """Return whether there is time to test `backbones` on `number` images."""
        return sum(self._seconds(each, number) for each in backbones) <= _FOR_FEATURES * (self.end - self.clock())

    def _seconds(self, backbone: Backbone, number: int) -> float:
        """Return how long testing `backbone` on `number` more images will take."""
        if backbone in self.paces:
            return number * self.paces[backbone]
        return self.costs[backbone].start_s + number * self.costs[backbone].seconds_per_image

    def _number(self, backbones: Sequence[Backbone], num_rounds: int) -> int:
        """Return the number of images for the next of `num_rounds` rounds; those of the round before are among them."""
        if num_rounds == 1 and self._fits(backbones, self.tests.num_images - self.number):
            return self.tests.num_images
        share = _FOR_FEATURES * (self.end - self.clock()) / num_rounds
        start_s = sum(self._seconds(each, 0) for each in backbones)
        per_image = sum(self._seconds(each, 1) for each in backbones) - start_s
        more = int((share - start_s) / max(per_image, 1e-6))
        return min(self.tests.num_images, max(self.number + more, self.tests.num_needed))

    def _test(self, backbones: Sequence[Backbone], number: int) -> dict[Backbone, Tested]:
        """Return the results of a round; without those that failed, and those for which there was no time."""
        results: dict[Backbone, Tested] = {}
        for backbone in sorted(backbones, key=self._price):
            is_first, began = not self.rounds and not results, self.clock()
            try:
                results[backbone] = self.tests.test(backbone, number, math.inf if is_first else self.end)
                self.paces[backbone] = (self.clock() - began) / max(1, number - self.number)
            except TimeIsOverError:
                self.is_over = True
                if not self.rounds:
                    self.left_out[backbone] = _TIME_IS_SHORT.format(self.minutes)
            except PipelineError as error:
                self._fail(backbone, error)
        return results

    def _fail(self, backbone: Backbone, error: PipelineError) -> None:
        self.left_out[backbone] = error.what
        self.errors.append(error)

    def _failure(self) -> PipelineError:
        if len({str(error) for error in self.errors}) == 1:
            return self.errors[0]
        reasons = "; ".join(f"{each.model}: {reason}" for each, reason in self.left_out.items())
        return ResourceError(f"choose: no backbone could be tested: {reasons}", self.errors[0].hint)

    def _results(self) -> tuple[Result, ...]:
        """Return all that were tested, the best first; after them those that were left out after a round."""
        if self.is_over and len(self.rounds) > 1:  # not all finalists were tested on the last sample
            self.rounds.pop()
        last = {each: tested for each, tested in self.rounds[-1].items() if each not in self.left_out}
        best = min(last, key=lambda each: (-last[each].accuracy, self._price(each)))
        found: dict[Backbone, Result] = {}
        for number, tested in enumerate(reversed(self.rounds)):
            for backbone in sorted(tested, key=lambda each: (each != best, -tested[each].accuracy, self._price(each))):
                if backbone not in found and backbone not in self.left_out:
                    found[backbone] = self._result(backbone, tested, best, is_finalist=number == 0)
        return tuple(found.values())

    def _result(
        self, backbone: Backbone, tested: Mapping[Backbone, Tested], best: Backbone, is_finalist: bool
    ) -> Result:
        test = tested[backbone]
        difference = None if backbone == best else difference_of(test, tested[best])
        cost = self.costs[backbone]
        return Result(backbone, cost, test.num_images, test.num_tested, test.accuracy, difference, is_finalist)

    def _price(self, backbone: Backbone) -> float:
        return self.costs[backbone].seconds_per_image
