"""Signals: a first one waits for the end of a step, a second one does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from MLPipeline.console.Signals import Interrupted, StopSignals

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture
def stops() -> Iterator[StopSignals]:
    handlers = {signum: signal.getsignal(signum) for signum, _ in SIGNALS}
    stops = StopSignals()
    stops.install()
    yield stops
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_it_stops_at_once(stops: StopSignals, signum: int, code: int) -> None:
    with pytest.raises(Interrupted) as caught:
        send(signum)
    assert caught.value.exit_code == code
    assert isinstance(caught.value, KeyboardInterrupt)  # no `except Exception` stops it


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_in_a_step_it_waits_to_be_asked(stops: StopSignals, signum: int, code: int) -> None:
    done = []
    with pytest.raises(Interrupted) as caught, stops.deferred():
        stops.check()
        send(signum)
        done.append("the step")
        stops.check()
        done.append("another")
    assert done == ["the step"] and caught.value.exit_code == code


def test_it_is_not_lost_where_nobody_asks(stops: StopSignals) -> None:
    done = []
    with pytest.raises(Interrupted), stops.deferred():
        send(signal.SIGINT)
        done.append("all")
    assert done == ["all"]


def test_a_second_one_is_obeyed_at_once(stops: StopSignals) -> None:
    done = []
    with pytest.raises(Interrupted) as caught, stops.deferred():
        send(signal.SIGINT)
        done.append("first")
        send(signal.SIGTERM)
        done.append("never")
    assert done == ["first"] and caught.value.exit_code == 143


def test_an_error_in_a_step_stays_what_it_is(stops: StopSignals) -> None:
    with pytest.raises(ZeroDivisionError), stops.deferred():
        send(signal.SIGINT)
        raise ZeroDivisionError


def test_after_the_block_it_stops_at_once_again(stops: StopSignals) -> None:
    with stops.deferred():
        pass
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)


def test_a_command_begins_without_the_signal_of_the_one_before(stops: StopSignals) -> None:
    with pytest.raises(Interrupted), stops.deferred():
        send(signal.SIGINT)
    stops.install()
    with stops.deferred():
        stops.check()
