"""Which picture is shown next, and to which page: chosen ones, and every eighth time one of the random sample."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from MLPipeline.labelling.Shown import Picture

SAMPLE_EVERY = 8  # pictures: one of them is of the random sample
_RESERVED_S = 120.0  # that a picture is kept for the page it was sent to


class Turns:
    """The order of the pictures of one session; not safe to use from several threads."""

    def __init__(self, sample: Sequence[int], others: Sequence[int]) -> None:
        """Take the pictures of the random sample and all others, each in the order in which they are shown."""
        self.passed_over: set[int] = set()  # skipped, unreadable or gone
        self.chosen: deque[int] = deque()  # the most instructive first
        self._sample, self._others = deque(sample), deque(others)
        self._sent: dict[int, tuple[str, float]] = {}  # the page that a picture was sent to, and when
        self._num_sent = 0

    def next(self, page: str, number: int, without: Sequence[int], is_labelled: Callable[[int], bool]) -> list[int]:
        """Return up to `number` pictures for `page`, which has those in `without` already."""
        now = time.monotonic()
        self._sent = {each: (who, at) for each, (who, at) in self._sent.items() if now - at < _RESERVED_S}
        found: list[int] = []
        while len(found) < number:
            taken = {each for each, (who, _) in self._sent.items() if who != page}.union(without, found)
            picture = next((each for each in self._candidates(is_labelled) if each not in taken), None)
            if picture is None:
                break
            found.append(picture)
            self._sent[picture] = page, now
            self._num_sent += 1
        return found

    def pictures(
        self,
        page: str,
        number: int,
        without: Sequence[int],
        is_labelled: Callable[[int], bool],
        look_up: Callable[[Sequence[int]], list[Picture]],
    ) -> list[Picture]:
        """Return up to `number` pictures for `page` as `look_up` finds them: without those that are gone."""
        found: list[Picture] = []
        while len(found) < number:
            held = [*without, *(picture.number for picture in found)]
            numbers = self.next(page, number - len(found), held, is_labelled)
            if not numbers:
                break
            found += look_up(numbers)
        return found

    def num_left(self, is_labelled: Callable[[int], bool]) -> int:
        """Return how many of the chosen pictures have not been sent to a page."""
        done = self.passed_over | self._sent.keys()
        return sum(each not in done and not is_labelled(each) for each in self.chosen)

    def show_again(self, pictures: Iterable[int]) -> None:
        """Show `pictures` before all others."""
        pictures = list(pictures)
        self.passed_over -= set(pictures)
        self.chosen.extendleft(reversed(pictures))

    def _candidates(self, is_labelled: Callable[[int], bool]) -> Iterator[int]:
        sources = [self.chosen, self._others, self._sample]
        is_of_sample = self._num_sent % SAMPLE_EVERY == SAMPLE_EVERY - 1
        for source in sources[2:] + sources[:2] if is_of_sample else sources:
            while source and is_labelled(source[0]):  # what is done at the beginning is not looked at again
                source.popleft()
            yield from (each for each in source if each not in self.passed_over and not is_labelled(each))
