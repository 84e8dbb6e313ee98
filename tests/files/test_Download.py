"""Row 40 of the fault matrix, against a server on this machine that is slow, wrong or dead on demand."""

import contextlib
import errno
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files import Download
from MLPipeline.files.Download import UnavailableError, download

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Does what the path says; `over` ends its sleeps."""

    over = threading.Event()

    def do_GET(self) -> None:  # noqa: N802
        with contextlib.suppress(ConnectionError):  # the client is expected to hang up
            self.answer()

    def answer(self) -> None:
        how = self.path.strip("/")
        if how == "silent":
            self.over.wait(10)
            return
        self.send_response(404 if how == "absent" else 200)
        if how != "unannounced":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if how == "trickle":
            for position in range(400):
                self.wfile.write(CONTENT[position : position + 1])
                if self.over.wait(0.02):
                    return
        self.wfile.write(CONTENT if how in ("whole", "unannounced") else CONTENT[:1000])
        if how == "stall":
            self.over.wait(10)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Server.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        Server.over.set()
        running.shutdown()


@pytest.mark.parametrize("how", ["whole", "unannounced"])
@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]])
def test_the_file_arrives_whole(
    server: str, tmp_path: Path, how: str, sha256: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cache" / "weights.pth"
    download(f"{server}/{how}", target, sha256)
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["weights.pth"]
    assert capsys.readouterr() == ("", "")  # no progress bar in a log file


def failure(url: str, folder: Path) -> str:
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        download(url, folder / "weights.pth", SHA256)
    assert time.monotonic() - started < 5
    assert list(folder.iterdir()) == []
    assert caught.value.exit_code == 3
    for hint in (url, str(folder / "weights.pth"), "--weights FILE"):
        assert hint in str(caught.value)
    return caught.value.what


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("absent", "404"),
        ("cut", f"truncated: 1000 of {len(CONTENT)} bytes"),
        ("silent", "no response within 0.4 s|timed out"),
        ("stall", "timed out"),
        ("trickle", r"only \d+ bytes in 0.4 s"),
    ],
)
def test_a_bad_transfer_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    monkeypatch.setattr(Download, "TIMEOUT_S", 0.4)
    assert re.search(reason, failure(f"{server}/{how}", tmp_path))


def test_a_file_of_another_hash_leaves_nothing(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SHA256", "0" * 64)
    assert "hash mismatch" in failure(f"{server}/whole", tmp_path)


def test_a_dead_network_fails_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        assert "refused" in failure(f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth", tmp_path)


def test_a_network_that_swallows_packets_takes_one_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Download, "TIMEOUT_S", 0.4)
    monkeypatch.setattr(Download, "urlopen", lambda url, timeout: time.sleep(10 * timeout))  # ten addresses
    started = time.monotonic()
    assert "no response within 0.4 s" in failure("http://weights.example/weights.pth", tmp_path)
    assert time.monotonic() - started < 2


def test_interrupting_leaves_nothing_and_keeps_the_old_file(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> Iterator[bytes]:
        yield CONTENT[:1000]
        assert len(os.listdir(tmp_path)) == 2
        raise KeyboardInterrupt

    (tmp_path / "weights.pth").write_text("old")
    monkeypatch.setattr(Download, "_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(f"{server}/whole", tmp_path / "weights.pth", SHA256)
    assert os.listdir(tmp_path) == ["weights.pth"]
    assert (tmp_path / "weights.pth").read_text() == "old"


def test_a_full_disk_is_not_taken_for_a_dead_network(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"weights\.pth: cannot be written \(No space left.*TORCH_HOME") as caught:
        download(f"{server}/whole", tmp_path / "weights.pth", SHA256)
    assert not isinstance(caught.value, UnavailableError)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_said(server: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written.*--weights FILE"):
        download(f"{server}/whole", tmp_path / "cache" / "weights.pth", SHA256)
