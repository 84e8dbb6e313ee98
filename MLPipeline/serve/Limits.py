"""What a server accepts at most, so that no client can exhaust its memory or keep it busy for ever."""

from __future__ import annotations

from dataclasses import dataclass

MB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of one server; beyond them it answers 408, 413, or 503 with `Retry-After`."""

    body_bytes: int = 32 * MB  # of one request
    all_bodies_bytes: int = 512 * MB  # of all requests that are being received or answered
    body_s: float = 120.0  # to receive a request: a photograph over a slow connection takes a while
    answer_s: float = 60.0  # to answer it
    requests: int = 256  # answered at once
    connections: int = 500  # open at once
    idle_s: float = 20.0  # of a connection on which no request arrives


DEFAULT_LIMITS = Limits()
