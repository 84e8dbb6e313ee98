"""Decides which requests reach an app, and within which limits: it is wrapped around every app that we serve.

A page on the Internet can make the visitor's browser send requests to this machine, and a name of its own can resolve
to 127.0.0.1 (DNS rebinding). A browser states both in headers that a page cannot change, so requests with a foreign
`Host` or `Origin` are refused. A server that other machines can reach requires a token as well.

    app = Guard(fastapi_app)                                 # an ASGI app; by default for this machine alone
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from MLPipeline.serve.Limits import DEFAULT_LIMITS, MB, Limits

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/health"})  # answered without a token
OUR_BUG = "a bug of the server; its console says more"
_RETRY_S = 1
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Observer = Callable[[str, int, float], None]  # route, status, seconds


@dataclass(frozen=True)
class Access:
    """Which requests are allowed: the names of this server in `Host`, and the token that clients must send."""

    hosts: frozenset[str] = LOOPBACK_NAMES  # lower case, without port
    any_address: bool = False  # whether any IP address is accepted as the name of the server
    token: str = ""  # empty: none is required
    is_https: bool = False  # whether browsers reach this server by https alone, through a proxy

    def allows_host(self, name: str | None) -> bool:
        """Return whether a request with this `Host`, without its port, is meant for this server."""
        return name is not None and (name in self.hosts or (self.any_address and _is_address(name)))

    @property
    def cookie(self) -> str:
        """The name of the cookie with the token: another one for every token, since cookies do not know ports."""
        return f"token-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def allows(self, given: str | None) -> bool:
        """Return whether `given` is the token; compared in constant time."""
        return not self.token or secrets.compare_digest((given or "").encode(), self.token.encode())


_LOOPBACK = Access()


class RequestRefusedError(Exception):
    """A request that does not reach the app; `response` says why."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response: Response = JSONResponse({"detail": why}, status, names)


def busy(why: str) -> RequestRefusedError:
    """Return the refusal of a request that may be sent again soon."""
    return RequestRefusedError(503, why, Retry_After=str(_RETRY_S))


class Guard:
    """An ASGI app that passes to `app` what `access` and `limits` allow, with the whole body in one message."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access = _LOOPBACK,
        limits: Limits = DEFAULT_LIMITS,
        observe: Observer | None = None,
    ) -> None:
        self._app, self._access, self._limits, self._observe = app, access, limits, observe
        self._num_bytes = self._num_requests = 0  # in progress; all requests run in one thread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # lifespan; uvicorn accepts no web sockets here
            return
        started, reply = time.monotonic(), _Reply(send)
        try:
            await self._answer(scope, receive, reply)
        except RequestRefusedError as refused:
            await reply.end(scope, receive, refused.response)
        except Exception:
            traceback.print_exc()
            await reply.end(scope, receive, JSONResponse({"detail": OUR_BUG}, 500))
        finally:
            if self._observe:
                route = getattr(scope.get("route"), "path", "other")
                self._observe(route, reply.status, time.monotonic() - started)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        self._check_access(scope)
        with self._counted() as add:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    body = await self._read(Headers(scope=scope), receive, add)
            except TimeoutError:
                why = f"the request did not arrive within {self._limits.body_s:g} seconds"
                raise RequestRefusedError(408, why, Connection="close") from None
            if body is None:
                return  # the client has disconnected
            if self._num_requests >= self._limits.requests:
                raise busy(f"{self._num_requests} requests are being answered")
            self._num_requests += 1
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    await self._app(scope, _replay(body, receive), reply)
            except TimeoutError:
                raise busy(f"no answer within {self._limits.answer_s:g} seconds") from None
            finally:
                self._num_requests -= 1

    def _check_access(self, scope: Scope) -> None:
        """Check where a request comes from.

        Raises:
            RequestRefusedError: it is for another server, comes from a page of another site, or lacks the token.
        """
        headers, host = Headers(scope=scope), Headers(scope=scope).get("host", "")
        if not self._access.allows_host(_hostname(host)):
            raise RequestRefusedError(
                403, f"foreign Host header {host[:100]!r}: open the address that the server has printed"
            )
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise RequestRefusedError(
                403, f"foreign Origin header {origin[:100]!r}: only pages of this server may send requests"
            )
        self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        access, asked = self._access, HTTPConnection(scope)
        if not access.token or scope["path"] in OPEN_PATHS:
            return
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and access.allows(sent.strip()) or access.allows(asked.cookies.get(access.cookie)):
            return
        in_address = asked.query_params.get("token")
        if in_address is None or not access.allows(in_address):
            why = "a token is required: the header `Authorization: Bearer TOKEN`, or ?token=TOKEN in the address"
            raise RequestRefusedError(401, why, WWW_Authenticate="Bearer")
        if scope["method"] == "GET":  # the browser keeps the token as a cookie, and the address is shown without it
            rest = urlencode([pair for pair in asked.query_params.multi_items() if pair[0] != "token"])
            redirect = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
            redirect.set_cookie(access.cookie, access.token, httponly=True, samesite="strict", secure=access.is_https)
            refused = RequestRefusedError(303, "")
            refused.response = redirect
            raise refused

    async def _read(self, headers: Headers, receive: Receive, add: Callable[[int], None]) -> bytes | None:
        """Return the body of a request; None if the client has closed the connection.

        Raises:
            RequestRefusedError: it is larger than allowed, or all bodies together are.
        """
        limit, body = self._limits.body_bytes, bytearray()
        too_large = RequestRefusedError(413, f"the request is larger than {limit / MB:g} MB")
        declared = headers.get("content-length", "0")
        if len(declared) > len(str(limit)) or (declared.isdecimal() and int(declared) > limit):
            raise too_large
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            add(len(part))
            body += part
            if len(body) > limit:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes as held until the block ends, and refuses too many."""
        own = 0

        def add(number: int) -> None:
            nonlocal own
            own += number
            self._num_bytes += number
            if self._num_bytes > self._limits.all_bodies_bytes:
                raise busy("the running requests use all the memory that is reserved for them")

        try:
            yield add
        finally:
            self._num_bytes -= own


class _Reply:
    """The `send` of one request: adds the headers that all responses have, and knows how far the response is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0  # 0: not begun

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive, response: Response) -> None:
        """Send `response`, unless another one has begun: the connection is then closed in the middle of that."""
        if not self.status:
            await response(scope, receive, self)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that has `body` in its first message, followed by what comes from the client."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _hostname(host: str) -> str | None:
    """Return the name in a `Host` header, lower case and without port; None if it has none."""
    try:
        parts = urlsplit(f"//{host}")
        return None if parts.path or parts.query or parts.fragment or "@" in host else parts.hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    """Return name and port in an `Origin` header; None if it is not that of a site (`null`)."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
