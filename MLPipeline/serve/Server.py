"""Runs an app at an address of this machine until a signal stops it.

    with listen(config.host, config.port, config.token) as server:     # refuses at once what cannot work
        ...                                                            # load what takes long
        server.run(api, open_browser=config.open)                      # returns only by `Interrupted`

Other machines can reach the server only if `--host` says so, and then every request requires the token.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from MLPipeline.console.Console import note, say
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.serve.Connection import ImpatientConnection
from MLPipeline.serve.Guard import LOOPBACK_NAMES, Access, Guard, Observer
from MLPipeline.serve.Limits import DEFAULT_LIMITS, Limits

_TOKEN = re.compile(r"[\w.~-]{12,200}", re.ASCII)  # what an address and a cookie can have unescaped
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", re.ASCII | re.IGNORECASE)
_END_S = 3  # that running requests are given when the server is stopped
_POLL_S = 0.5  # Windows delivers no signal while a thread is waited for without a limit


@dataclass(frozen=True)
class Server:
    """An open port of this machine."""

    socket: socket.socket
    host: str  # as the user has stated it
    token: str = ""
    public_name: str = ""  # under which a proxy shows this server

    @property
    def access(self) -> Access:
        """The allowed clients: off loopback, also those who use an IP address or the name of this machine."""
        names, is_local = LOOPBACK_NAMES | {self.host.lower(), self.public_name.lower()}, is_loopback(self.host)
        if not is_local:
            names |= {socket.gethostname().lower()}
        return Access(names - {""}, any_address=not is_local, token=self.token, is_https=bool(self.public_name))

    @property
    def url(self) -> str:
        """The address to open in a browser, with the token if there is one."""
        is_any = self.host in ("0.0.0.0", "::")
        host = socket.gethostname() if is_any else f"[{self.host}]" if ":" in self.host else self.host
        address = f"http://{host}:{self.socket.getsockname()[1]}/"
        if self.public_name:
            address = f"https://{self.public_name}/"
        return address + (f"?token={self.token}" if self.token else "")

    @contextlib.contextmanager
    def running(
        self, api: FastAPI, limits: Limits = DEFAULT_LIMITS, observe: Observer | None = None
    ) -> Iterator[threading.Thread]:
        """Answer requests, in the thread that is yielded, inside the `with` block.

        At its end, running requests are given a few seconds to finish. For the arguments see `run`.
        """
        server = uvicorn.Server(_settings(Guard(api, self.access, limits, observe), limits))
        thread = threading.Thread(target=server.run, args=([self.socket],), name="server", daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            server.should_exit = True
            thread.join(2 * _END_S)

    def run(
        self,
        api: FastAPI,
        limits: Limits = DEFAULT_LIMITS,
        observe: Observer | None = None,
        open_browser: bool = False,
    ) -> None:
        """Answer requests until a signal comes, which the main thread receives as `Interrupted`.

        Args:
            api: what answers; see `Web.new_api`.
            limits: what it accepts at most.
            observe: is called with the route, the status and the seconds of each request.
            open_browser: whether to open the page in the browser of this machine.

        Raises:
            Interrupted: a signal has come.
        """
        with self.running(api, limits, observe) as thread:
            say(f"open     {self.url}   (Ctrl-C stops)")
            if open_browser and not webbrowser.open(self.url):
                note("--open: no browser was found")
            while thread.is_alive():
                thread.join(_POLL_S)
        raise ResourceError("the server has ended by itself", "The lines above say why")


@contextlib.contextmanager
def listen(host: str, port: int, token: str | None, public_name: str | None = None) -> Iterator[Server]:
    """Yield a server whose port is open; connections wait until it runs.

    With `public_name`, others reach it through a proxy that passes the Host header on.

    Raises:
        UsageError: the token is unusable, or is missing although other machines could connect; or `host` is not an
            address of this machine.
        ResourceError: the port is in use, or this user may not open it.
    """
    _check_token(host, token, public_name)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        opened = socket.create_server((host, port), family=family, backlog=DEFAULT_LIMITS.connections)
        # Connections inherit it; asyncio sets it only on sockets that it opens itself. Without it, the second packet of
        # an answer waits for the acknowledgement of the first: 40 ms.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        raise _not_opened(host, port, error) from error
    with opened:
        yield Server(opened, host, token or "", public_name or "")


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can connect to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_token(host: str, token: str | None, public_name: str | None) -> None:
    hint = f"Add a secret: --token {secrets.token_urlsafe(16)}"
    if public_name is not None and not _NAME.fullmatch(public_name):
        raise UsageError(f"--public-name {public_name}: is not a host name", "Give one such as images.example.org")
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError("--token: has fewer than 12 characters, or others than letters, digits and . _ ~ -", hint)
    if token is None and (public_name or not is_loopback(host)):
        flag = f"--public-name {public_name}" if public_name else f"--host {host}"
        raise UsageError(f"{flag}: other machines could connect, and no token is required", hint)


def _not_opened(host: str, port: int, error: Exception) -> UsageError | ResourceError:
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        hint = "Stop the program that uses it, or add --port 0, which picks a free one"
        return ResourceError(f"--port {port}: is in use on {host}", hint)
    if code in (errno.EACCES, errno.EPERM):
        return ResourceError(f"--port {port}: may not be opened by this user", "Use a port from 1024, or --port 0")
    what = getattr(error, "strerror", None) or str(error)
    return UsageError(f"--host {host}: is not an address of this machine ({what})", "Leave it out: 127.0.0.1")


def _settings(app: Guard, limits: Limits) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # `Guard` reports errors; clients cause the rest
    protocol = type("Connection", (ImpatientConnection,), {"IDLE_S": limits.idle_s})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=_END_S,
    )
