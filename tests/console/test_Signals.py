"""Signals: a first one waits for the end of a step, a second one does not, and no library call delays the end."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from MLPipeline.console import Signals
from MLPipeline.console.Signals import STOPPING, Interrupted, StopSignals

CODES = {
    "SIGINT": 130,
    "SIGTERM": 143,
    "SIGQUIT": 131,
    "SIGHUP": 129,
    "SIGUSR1": 138,
    "SIGUSR2": 140,
    "SIGXCPU": 152,
}
SIGNALS = [(getattr(signal, name), code) for name, code in CODES.items()]
REPEATED = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.fixture
def stops() -> Iterator[StopSignals]:
    stops = StopSignals()
    stops.install()
    yield stops
    stops.uninstall()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have been ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def wait_for(codes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not codes and time.monotonic() < deadline:
        time.sleep(0.01)


def test_linux_has_all_but_one_of_them() -> None:
    assert {signum.name: 128 + signum for signum in STOPPING} == CODES


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_it_stops_at_once(stops: StopSignals, signum: int, code: int) -> None:
    with pytest.raises(Interrupted) as caught:
        send(signum)
    assert caught.value.exit_code == code
    assert isinstance(caught.value, KeyboardInterrupt)  # no `except Exception` stops it


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_in_a_step_it_waits_for_the_check(stops: StopSignals, signum: int, code: int) -> None:
    done = []
    with pytest.raises(Interrupted) as caught, stops.deferred():
        stops.check()
        send(signum)
        done.append("the step")
        stops.check()
        done.append("another")
    assert done == ["the step"] and caught.value.exit_code == code


def test_it_is_not_lost_without_a_check(stops: StopSignals) -> None:
    done = []
    with pytest.raises(Interrupted), stops.deferred():
        send(signal.SIGINT)
        done.append("all")
    assert done == ["all"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_second_one_takes_effect_at_once(stops: StopSignals, first: int, second: int) -> None:
    done = []
    with pytest.raises(Interrupted) as caught, stops.deferred():
        send(first)
        done.append("first")
        send(second)
        done.append("never")
    assert done == ["first"] and caught.value.exit_code == 128 + second


@pytest.mark.parametrize("signum", REPEATED)
def test_what_is_sent_several_times_for_one_reason_counts_once(stops: StopSignals, signum: int) -> None:
    """The kernel sends SIGXCPU every second; shell and kernel both send SIGHUP."""
    done = []
    with pytest.raises(Interrupted) as caught, stops.deferred():
        for _ in range(3):
            send(signum)
            done.append("the step")
        stops.check()
    send(signum)  # while the state is saved
    assert done == 3 * ["the step"] and caught.value.exit_code == 128 + signum


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


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_what_was_ignored_at_the_start_stays_ignored(signum: int, code: int) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    stops = StopSignals()
    try:
        stops.install()
        with stops.deferred():
            send(signum)
            stops.check()
        send(signum)
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        stops.uninstall()
        signal.signal(signum, before)


def test_the_handlers_are_restored() -> None:
    handlers = [signal.getsignal(signum) for signum in STOPPING]
    num_threads = threading.active_count()
    stops = StopSignals()
    stops.install()
    assert signal.getsignal(signal.SIGHUP) == stops._receive
    stops.uninstall()
    assert [signal.getsignal(signum) for signum in STOPPING] == handlers
    assert threading.active_count() == num_threads and signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_step_that_takes_too_long_is_interrupted(
    stops: StopSignals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, signum: int
) -> None:
    monkeypatch.setattr(Signals, "GRACE_S", 0.05)
    with pytest.raises(Interrupted) as caught, stops.deferred():
        send(signum)
        for _ in range(6000):  # layers, between which Python runs
            time.sleep(0.01)
    assert caught.value.exit_code == 128 + signum
    assert [each.message for each in caplog.records] == [
        "the training step takes longer than 0.05 s: it is interrupted"
    ]


def test_a_console_that_blocks_does_not_delay_the_interruption(
    stops: StopSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Signals, "GRACE_S", 0.05)
    monkeypatch.setattr(Signals, "_LAST_WORDS_S", 0.05)
    released = threading.Event()
    monkeypatch.setattr(Signals.logger, "warning", lambda *_: released.wait(120))
    with pytest.raises(Interrupted), stops.deferred():
        send(signal.SIGTERM)
        for _ in range(6000):
            time.sleep(0.01)
    assert not released.is_set()
    released.set()


def test_saving_the_state_is_not_a_step(stops: StopSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signals, "GRACE_S", 0.02)
    saved = []
    with pytest.raises(Interrupted), stops.deferred():
        send(signal.SIGTERM)
        try:
            stops.check()
        except Interrupted:
            time.sleep(0.2)
            saved.append("all")
            raise
    assert saved == ["all"]


def test_a_long_call_of_a_library_does_not_delay_the_end(
    stops: StopSignals, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs no handler while the main thread computes in C; the process ends all the same."""
    monkeypatch.setattr(Signals, "LIMIT_S", 0.1)
    monkeypatch.setattr(Signals, "GRACE_S", 0.05)
    said, during, is_computing = [], [], [True]
    monkeypatch.setattr(os, "_exit", lambda code: (during.append(is_computing[0]), exits.append(code)))
    try:
        with stops.last_act(lambda: said.append("to resume: ...")):
            threading.Timer(0.1, send, [signal.SIGTERM]).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 800_000)  # more than a second in C, without Python's lock
        raise AssertionError("no signal came")
    except Interrupted:
        is_computing[0] = False
    wait_for(exits)
    assert exits == [143] and said == ["to resume: ..."] and during == [True]


@pytest.mark.parametrize(
    "signums", [[signal.SIGINT] * 3, [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGINT]]
)
def test_a_third_one_ends_the_process(
    stops: StopSignals, exits: list[int], monkeypatch: pytest.MonkeyPatch, signums: list[int]
) -> None:
    monkeypatch.setattr(Signals, "LIMIT_S", 1000)
    for signum in signums:
        assert not exits
        with pytest.raises(Interrupted):
            send(signum)
    wait_for(exits)
    assert exits == [128 + signums[0]]


def test_repeated_notices_do_not_end_the_process(stops: StopSignals, exits: list[int]) -> None:
    with pytest.raises(Interrupted):
        send(signal.SIGXCPU)
    for _ in range(5):
        send(signal.SIGXCPU)
    time.sleep(0.1)
    assert exits == []


def test_while_cleaning_up_a_signal_ends_the_process_at_once(stops: StopSignals, exits: list[int]) -> None:
    stops.finish()
    with pytest.raises(Interrupted):  # here `os._exit` returns
        send(signal.SIGTERM)
    assert exits == [143]


def test_a_message_that_blocks_does_not_delay_the_end(stops: StopSignals, exits: list[int]) -> None:
    released = threading.Event()
    with stops.last_act(lambda: released.wait(60) and None), pytest.raises(Interrupted):
        stops.finish()
        send(signal.SIGTERM)
    assert exits == [143]
    released.set()
