"""Rows 60, 63, 120, 121 of the fault matrix: clients of `serve` that are foreign, too many, too large, slow or gone."""

from __future__ import annotations

import gc
import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from MLPipeline.Config import Config
from MLPipeline.serve.Batcher import _Job
from MLPipeline.serve.Limits import Limits
from MLPipeline.serve.PredictApi import Service, make_api
from MLPipeline.serve.Server import listen
from tests.support.harness import refuse
from tests.support.served_model import picture, random_run, service_of

LIMIT_S = 30
LIMITS = Limits(body_bytes=100_000, body_s=0.5, idle_s=1.0)
Address = tuple[str, int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Service]:
    with service_of(run, max_waiting=20) as service:
        yield service


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[Address]:
    """Return the address of a server in this process."""
    with listen("127.0.0.1", 0, None) as server, server.running(make_api(service), LIMITS):
        yield server.socket.getsockname()


def ask(address: Address, body: bytes, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*address, timeout=LIMIT_S)
    connection.request("POST", "/predict", body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers
    connection.close()
    return answer


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def num_jobs() -> int:
    """Return how many images of requests are in memory."""
    return sum(type(each) is _Job for each in gc.get_objects())


def test_060_html_in_names_stays_text_on_the_page(address: Address) -> None:
    """HTML in class names: shown as text on the page of `serve`, under a security policy that runs our script alone."""
    connection = http.client.HTTPConnection(*address, timeout=LIMIT_S)
    connection.request("GET", "/")
    response = connection.getresponse()
    shown, policy = response.read().decode(), response.headers["Content-Security-Policy"]
    assert "<option>&lt;img src=x onerror=alert(1)&gt;</option>" in shown and shown.count("<script") == 1
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "unsafe" not in policy
    connection.close()


def test_063_uploads_that_are_no_images_or_too_large_are_refused(address: Address) -> None:
    """A text file is refused with 422 and a reason, a body over the limit with 413; the next image is answered."""
    status, content, _ = ask(address, b"A plain text file, sent by mistake.")
    assert status == 422 and b"not an image (text)" in content
    status, content, _ = ask(address, bytes(LIMITS.body_bytes + 1))
    assert status == 413 and b"larger than 0.0953674 MB" in content
    assert ask(address, picture())[0] == 200


def test_063_a_hundred_clients_at_once_are_answered_or_told_to_come_again(address: Address, service: Service) -> None:
    """100 clients at once: each gets its answer, or 503 with Retry-After; the server then answers as before."""
    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(lambda seed: ask(address, picture(seed)), range(100)))
    assert {status for status, _, _ in answers} <= {200, 503} and 200 in {status for status, _, _ in answers}
    assert all(headers["Retry-After"] for status, _, headers in answers if status == 503)
    expected = service.classifier.predict(picture(7)).pop().predicted
    assert answers[7][0] == 503 or expected.encode("unicode_escape") in answers[7][1].replace(b'\\"', b'"')
    assert ask(address, picture())[0] == 200 and service.batcher.num_waiting == 0


def test_063_120_only_this_machine_can_connect_unless_it_is_asked_for(run: Path) -> None:
    """The server listens on loopback by default; on any other address it requires a token, or exits with code 2."""
    assert Config().host == "127.0.0.1"
    serve = ["serve", "--run", run, "--output", run.parent, "--port", "0"]
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        refuse([*serve, "--host", host], 2, f"--host {host}: other machines could connect", "--token")
    refuse([*serve, "--host", "0.0.0.0", "--token", "guess"], 2, "--token: has fewer than 12 characters")


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": ""}]
)
def test_063_120_requests_of_other_sites_are_refused(address: Address, headers: dict[str, str]) -> None:
    """A foreign Host header (DNS rebinding) or Origin header (a page of another site): 403, and no answer."""
    status, content, _ = ask(address, picture(), **headers)
    assert status == 403 and b"foreign" in content and b"confidence" not in content


def test_120_off_loopback_no_one_is_answered_without_the_token(service: Service) -> None:
    """Without the token, or with another one: 401; with it: the answer."""
    token = "correct-horse-battery"
    with listen("0.0.0.0", 0, token) as server, server.running(make_api(service), LIMITS):
        address = "127.0.0.1", server.socket.getsockname()[1]
        statuses = [
            ask(address, picture(), **headers)[0]
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {token}"})
        ]
    assert statuses == [401, 401, 200]


def test_121_slow_clients_are_given_up(address: Address) -> None:
    """A request that does not arrive in time: 408; a connection on which none arrives is closed."""
    slow, silent = (socket.create_connection(address, LIMIT_S) for _ in range(2))
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    assert b"408 Request Timeout" in slow.recv(10_000)
    assert silent.recv(100) == b""
    slow.close(), silent.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_121_clients_that_have_gone_leave_nothing_behind(address: Address, service: Service) -> None:
    """Clients that leave before the request is complete, or before the answer: no image, socket or memory is kept."""
    num_open = len(os.listdir("/proc/self/fd"))
    body = picture()
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    for request in (head + body[:100], head + body) * 15:
        with socket.create_connection(address, LIMIT_S) as gone:
            gone.sendall(request)
    wait_for(lambda: not service.batcher.num_waiting and len(os.listdir("/proc/self/fd")) <= num_open)
    assert ask(address, picture())[0] == 200
    gc.collect()
    wait_for(lambda: num_jobs() == 0)


def test_121_a_full_queue_refuses_and_forgets(run: Path) -> None:
    """503 while the queue is full keeps no image; the queue empties, and requests are answered again."""
    with service_of(run, max_waiting=0) as full, listen("127.0.0.1", 0, None) as server:
        with server.running(make_api(full), LIMITS):
            for _ in range(5):
                status, content, headers = ask(server.socket.getsockname(), picture())
                assert status == 503 and headers["Retry-After"] == "1" and b"busy" in content
        assert full.batcher.num_waiting == 0
        assert num_jobs() == 0
