"""Micro-batching: who shares a pass of the model, what a full queue does, and that no failure ends the thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.images.GivenImages import Ready
from MLPipeline.Predict import Answer, load
from MLPipeline.serve.Batcher import Batcher
from tests.support.served_model import picture, random_run

LIMIT_S = 20


class SlowModel:
    """Stands for the model: a pass lasts until it is let go, and what each had is listed."""

    batch_size, num_alone, device = 4, 2, "cpu"

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def prepare(self, data: bytes) -> Ready:
        if data == b"broken decoder":
            raise ZeroDivisionError
        return Ready(Path(data.decode()))

    def answer(self, ready: Iterable[Ready], topk: int, with_heat: bool) -> Iterator[Answer]:
        names = "".join(str(each.path) for each in ready)
        self.passes.append(f"{names} hot" if with_heat else names)
        self.began.release()
        assert self.go.acquire(timeout=LIMIT_S)
        if "huge" in names:
            raise MemoryError
        if "poison" in names:
            raise UsageError("poison", "Leave it out")
        for each in ready:
            yield Answer(each.path, (("cat", 0.5), ("dog", 0.3), ("eel", 0.2))[:topk])


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


def batcher_of(model: SlowModel, **settings: int) -> Batcher:
    return Batcher(model, workers=1, **settings)  # type: ignore[arg-type]


def wait_until_decoded(batcher: Batcher) -> None:
    with batcher._changed:
        assert batcher._changed.wait_for(lambda: not batcher._num_undecoded, LIMIT_S)


def said(futures: Iterable[Future[Answer]]) -> list[str]:
    return [f"{answer.path} {len(answer.top)}" for answer in (future.result(LIMIT_S) for future in futures)]


def test_a_lone_image_has_a_pass_of_its_own_at_once(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        for name in "abc":
            answer = batcher.submit(name.encode())
            assert model.began.acquire(timeout=LIMIT_S)
            model.go.release()
            assert said([answer]) == [f"{name} 3"]
        assert model.passes == ["a", "b", "c"] and batcher.num_waiting == 0


def test_images_that_come_during_a_pass_share_the_next_one(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        first = batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        others = batcher.submit_all([b"b", b"c", b"d"], topk=2) + batcher.submit_all([b"e", b"f"], topk=1)
        wait_until_decoded(batcher)
        model.go.release(3)
        assert said([first, *others]) == ["a 3", "b 2", "c 2", "d 2", "e 1", "f 1"]
        assert model.passes == ["a", "bcde", "f"]


def test_a_few_images_are_answered_one_by_one(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        waiting = [batcher.submit(b"a")]
        assert model.began.acquire(timeout=LIMIT_S)
        waiting += batcher.submit_all([b"b", b"c"])
        wait_until_decoded(batcher)
        model.go.release(3)
        assert said(waiting) == ["a 3", "b 3", "c 3"] and model.passes == ["a", "b", "c"]


def test_a_batch_waits_a_moment_for_those_who_were_just_answered(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        batcher._more_until = time.monotonic() + LIMIT_S  # as after a pass with many images
        waiting = batcher.submit_all([b"a", b"b"])
        wait_until_decoded(batcher)
        assert model.passes == []
        waiting += batcher.submit_all([b"c", b"d"])
        model.go.release()
        assert said(waiting) == ["a 3", "b 3", "c 3", "d 3"] and model.passes == ["abcd"]
        batcher._more_until = 0.0


def test_a_gpu_runs_one_batch_at_a_time_of_as_many_as_there_are(model: SlowModel) -> None:
    model.device = "cuda:0"
    with batcher_of(model) as batcher:
        waiting = [batcher.submit(b"a")]
        assert model.began.acquire(timeout=LIMIT_S)
        waiting += batcher.submit_all([b"b", b"c"])
        wait_until_decoded(batcher)
        assert model.passes == ["a"]
        model.go.release(2)
        assert said(waiting) == ["a 3", "b 3", "c 3"] and model.passes == ["a", "bc"]


def test_heat_maps_are_drawn_for_those_alone_who_ask(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        hot = [False, True, False, True]
        asked = [batcher.submit(name.encode(), 1, with_heat) for name, with_heat in zip("bcde", hot, strict=True)]
        wait_until_decoded(batcher)
        model.go.release(9)
        assert said(asked) == ["b 1", "c 1", "d 1", "e 1"]
        assert model.passes == ["a", "b", "d", "c hot", "e hot"]


def test_a_full_queue_refuses_and_accepts_again(model: SlowModel) -> None:
    with batcher_of(model, max_waiting=2) as batcher:
        waiting = batcher.submit_all([b"a", b"b"])
        with pytest.raises(ResourceError, match="busy: 2 images are waiting"):
            batcher.submit(b"c")
        model.go.release(9)
        assert said(waiting) == ["a 3", "b 3"]
        with pytest.raises(ResourceError):
            batcher.submit_all([b"d", b"e", b"f"])
        assert said([batcher.submit(b"g")]) == ["g 3"]
        assert "c" not in "".join(model.passes) and "d" not in "".join(model.passes)


def test_those_who_have_gone_are_left_out(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        gone, stays = batcher.submit_all([b"b", b"c"])
        assert gone.cancel() and batcher.num_waiting == 2
        model.go.release(9)
        assert said([stays]) == ["c 3"] and model.passes == ["a", "c"]
        with pytest.raises(CancelledError):
            gone.result()


def test_a_failure_reaches_its_senders_and_no_others(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        first = batcher.submit(b"a")
        assert model.began.acquire(timeout=LIMIT_S)
        many = batcher.submit_all([b"b", b"poison", b"broken decoder", b"c"])
        wait_until_decoded(batcher)
        model.go.release(9)
        found = [type(each.exception(LIMIT_S)) for each in (first, *many)]
        assert found == [type(None), UsageError, UsageError, ZeroDivisionError, UsageError]
        assert said([batcher.submit(b"a")]) == ["a 3"] and batcher.num_waiting == 0


def test_a_lack_of_memory_is_no_bug(model: SlowModel) -> None:
    with batcher_of(model) as batcher:
        model.go.release(9)
        with pytest.raises(ResourceError, match="out of memory while an image was classified"):
            batcher.submit(b"huge").result(LIMIT_S)
        assert said([batcher.submit(b"a")]) == ["a 3"]


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
