"""How ranks find each other, and what is said where one of them is missing, ends or hangs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from MLPipeline.distributed import Ranks, Rendezvous
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import ResourceError
from tests.support.rank_cases import alone, free_port, refused, together


def last_words(answer_s: float, end: Callable[[], None]) -> str:
    """What rank 0 says of rank 1, which ends, or sleeps, while it should answer."""
    if ranks.rank:
        end()
    started = time.monotonic()
    said = refused(ranks.wait)
    assert time.monotonic() - started < answer_s + 10
    return said


def die() -> None:
    os._exit(0)


def sleep() -> None:
    time.sleep(20)
    os._exit(0)


@pytest.mark.parametrize(("answer_s", "end"), [(600.0, die), (2.0, sleep)])
def test_a_rank_that_is_gone_is_named(tmp_path: Path, answer_s: float, end: Callable[[], None]) -> None:
    (said,) = together(2, partial(last_words, answer_s, end), tmp_path, answer_s)
    assert said.startswith(f"rank 1: ended, or gave no answer within {answer_s:.0f} s. See the messages above")


def test_a_missing_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rendezvous, "MEETING_S", 1.0)
    with pytest.raises(ResourceError, match="^ranks 1, 2 of 3 did not join within 1 s. See their output"):
        alone(RANK=0, WORLD_SIZE=3, MASTER_ADDR="localhost", MASTER_PORT=free_port()).meet("cpu")


def test_rank_0_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rendezvous, "MEETING_S", 1.0)
    port = free_port()
    with pytest.raises(ResourceError, match=f"^rank 0 cannot be reached at localhost, port {port}, within 1 s"):
        alone(RANK=1, WORLD_SIZE=2, MASTER_ADDR="localhost", MASTER_PORT=port).meet("cpu")


def test_a_launch_is_known_by_its_name_or_its_process() -> None:
    assert alone(TORCHELASTIC_RUN_ID="job 7").launch == "job 7"
    assert alone(TORCHELASTIC_RUN_ID="none").launch == f"{socket.gethostname()} {os.getppid()}"


def test_limits_are_those_promised() -> None:
    assert (Rendezvous.MEETING_S, Ranks.ANSWER_S) == (60.0, 600.0)
