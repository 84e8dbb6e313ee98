"""Opening a port, and the connections on it: refused at once what cannot work, closed what does nothing."""

from __future__ import annotations

import http.client
import socket
import time

import pytest
from starlette.testclient import TestClient

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.serve.Guard import Guard
from MLPipeline.serve.Limits import Limits
from MLPipeline.serve.Server import listen
from MLPipeline.serve.Web import new_api

TOKEN = "correct-horse-battery"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_off_loopback_a_token_is_required(host: str) -> None:
    with (
        pytest.raises(UsageError, match=r"other machines could connect.*Add a secret: --token \S{20}"),
        listen(host, 0, None),
    ):
        pass


@pytest.mark.parametrize("token", ["", "short", "has a blank in it", "ümläutümläut", "semi;colon;semi"])
def test_a_token_that_is_easily_guessed_or_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="--token: has fewer than 12"), listen("127.0.0.1", 0, token):
        pass


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0, None) as first:
        port = first.socket.getsockname()[1]
        with pytest.raises(ResourceError, match=f"--port {port}: is in use.*--port 0"), listen("127.0.0.1", port, None):
            pass


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 300])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="is not an address of this machine"), listen(host, 0, TOKEN):
        pass


def test_the_address_to_open_has_the_port_and_the_token() -> None:
    with listen("127.0.0.1", 0, None) as server:
        assert server.url == f"http://127.0.0.1:{server.socket.getsockname()[1]}/"
        assert not server.access.any_address and not server.access.token
    with listen("0.0.0.0", 0, TOKEN) as server:
        assert server.url.endswith(f"/?token={TOKEN}") and socket.gethostname() in server.url
        assert server.access.any_address and server.access.token == TOKEN


def test_packets_of_an_answer_wait_for_no_acknowledgement() -> None:
    with listen("127.0.0.1", 0, None) as server, socket.create_connection(server.socket.getsockname()):
        accepted, _ = server.socket.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_proxy_shows_the_server_under_its_own_name() -> None:
    with listen("127.0.0.1", 0, TOKEN, "images.example.org") as server:
        assert server.url == f"https://images.example.org/?token={TOKEN}"
        assert server.access.allows_host("images.example.org") and not server.access.allows_host("example.org")
        guard = Guard(new_api("test"), server.access)
        client = TestClient(guard, base_url="https://images.example.org")
        assert client.get(f"/?token={TOKEN}", follow_redirects=False).headers["set-cookie"].endswith("Secure")
        assert client.post("/", headers={"Origin": "https://images.example.org"}).status_code == 404
    with pytest.raises(UsageError, match="--public-name a.b: other machines"), listen("127.0.0.1", 0, None, "a.b"):
        pass
    with pytest.raises(UsageError, match="is not a host name"), listen("127.0.0.1", 0, TOKEN, "https://a.b"):
        pass


def test_idle_connections_are_closed_and_the_others_answered() -> None:
    """A client that sends headers slowly, one that sends nothing, and one that keeps its connection open too long."""
    api = new_api("test")
    api.get("/health")(lambda: "ok")
    with listen("127.0.0.1", 0, None) as server, server.running(api, Limits(idle_s=0.3)):
        address = server.socket.getsockname()
        slow, silent = (socket.create_connection(address, 5) for _ in range(2))
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        kept = http.client.HTTPConnection(*address, timeout=5)
        kept.request("GET", "/health")
        assert kept.getresponse().read() == b'"ok"'
        for each in (slow, silent, kept.sock):
            assert each.recv(100) == b""
    slow.close(), silent.close(), kept.close()


def test_the_port_is_free_again_after_the_block() -> None:
    api = new_api("test")
    with listen("127.0.0.1", 0, None) as server, server.running(api) as thread:
        port = server.socket.getsockname()[1]
        time.sleep(0)
    assert not thread.is_alive()
    with listen("127.0.0.1", port, None):
        pass
