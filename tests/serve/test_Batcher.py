"""Micro-batching: who shares a pass of the model, what a full queue does, and that no failure ends the thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.Predict import load
from MLPipeline.serve.Batcher import Batcher
from tests.support.served_model import picture, random_run

LIMIT_S = 20


class SlowModel:
    """Stands for the model: a pass lasts until it is let go, and its batches are listed."""

    images_at_once = 4

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def prepare(self, data: bytes) -> SimpleNamespace:
        if data == b"broken decoder":
            raise ZeroDivisionError
        return SimpleNamespace(name=data.decode())

    def answer(self, ready: Iterable[SimpleNamespace], topk: int, with_heat: bool) -> Iterator[str]:
        names = [each.name for each in ready]
        self.batches.append(names)
        self.began.release()
        assert self.go.acquire(timeout=LIMIT_S)
        if "poison" in names:
            raise UsageError("poison", "Leave it out")
        yield from (f"{name} {topk} {with_heat}" for name in names)


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


def batcher_of(model: SlowModel, **settings: int) -> Batcher:
    return Batcher(model, workers=1, **settings)  # type: ignore[arg-type]


def wait_until_decoded(batcher: Batcher) -> None:
    with batcher._changed:
        assert batcher._changed.wait_for(lambda: not batcher._num_undecoded, LIMIT_S)


def test_images_that_come_during_a_pass_share_the_next_one(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        first = batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        others = batcher.submit_all([b"b", b"c", b"d", b"e", b"f"], topk=2)
        wait_until_decoded(batcher)
        model.go.release(3)
        assert first.result(LIMIT_S) == "a 5 False"
        assert [each.result(LIMIT_S) for each in others] == [f"{name} 2 False" for name in "bcdef"]
        assert model.batches == [["a"], ["b", "c", "d", "e"], ["f"]]
        assert batcher.num_waiting == 0


def test_heat_maps_are_drawn_for_those_alone_who_ask(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        asked = [batcher.submit(name, 3, with_heat) for name, with_heat in ((b"b", True), (b"c", False), (b"d", True))]
        wait_until_decoded(batcher)
        model.go.release(3)
        assert [each.result(LIMIT_S) for each in asked] == ["b 3 True", "c 3 False", "d 3 True"]
        assert model.batches == [["a"], ["c"], ["b", "d"]]


def test_a_full_queue_refuses_and_accepts_again(model: SlowModel) -> None:
    with batcher_of(model, max_waiting=2) as batcher:
        waiting = batcher.submit_all([b"a", b"b"])
        with pytest.raises(ResourceError, match="busy: 2 images are waiting"):
            batcher.submit(b"c")
        model.go.release(9)
        assert [each.result(LIMIT_S)[0] for each in waiting] == ["a", "b"]
        with pytest.raises(ResourceError):
            batcher.submit_all([b"d", b"e", b"f"])
        assert batcher.submit(b"g").result(LIMIT_S) == "g 5 False"
        assert "c" not in str(model.batches) and "d" not in str(model.batches)


def test_those_who_have_gone_are_left_out(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        gone, stays = batcher.submit_all([b"b", b"c"])
        assert gone.cancel() and batcher.num_waiting == 2
        model.go.release(9)
        assert stays.result(LIMIT_S) == "c 5 False" and model.batches == [["a"], ["c"]]
        with pytest.raises(CancelledError):
            gone.result()


def test_a_failure_reaches_its_senders_and_no_others(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        model.go.release(9)
        with pytest.raises(UsageError, match="poison"):
            batcher.submit(b"poison").result(LIMIT_S)
        with pytest.raises(ZeroDivisionError):
            batcher.submit(b"broken decoder").result(LIMIT_S)
        assert batcher.submit(b"a").result(LIMIT_S) == "a 5 False" and batcher.num_waiting == 0


def test_the_threads_end_with_the_block(model: SlowModel) -> None:
    before = threading.active_count()
    model.go.release(9)
    with batcher_of(model) as batcher:
        batcher.submit(b"a").result(LIMIT_S)
    assert threading.active_count() == before
    with pytest.raises(ResourceError):
        batcher.submit(b"b")


def test_answers_are_those_of_predict(tmp_path: Path) -> None:
    """In any batch, readable or not, and for fewer classes than others of the batch ask for."""
    classifier = load(random_run(tmp_path))
    files = [picture(seed) for seed in range(12)] + [b"not an image"]
    expected = classifier.predict(files)
    with Batcher(classifier, workers=2) as batcher:
        waiting = batcher.submit_all(files, topk=5, with_heat=True) + batcher.submit_all(files, topk=1)
        found = [each.result(LIMIT_S) for each in waiting]
    assert [answer.top for answer in found[:13]] == [answer.top for answer in expected]
    assert [answer.top for answer in found[13:]] == [answer.top[:1] for answer in expected]
    assert found[12].reason == expected[12].reason != ""
    assert found[0].heat is not None and found[13].heat is None
