"""An HTTP connection that is closed when nothing happens on it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class ImpatientConnection(H11Protocol):
    """Closes a connection that waits for a request for `IDLE_S`; uvicorn has no limit for headers that arrive slowly.

    The same holds for one that is closed, but whose client does not read the end of a response.
    """

    IDLE_S = 20.0  # by `Limits.idle_s`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start watching a new connection."""
        super().connection_made(transport)
        self._resting_since = self.loop.time()
        self._was_closing = False
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching a connection that has ended."""
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the time from here on: the connection waits for the next request."""
        super().on_response_complete()
        self._resting_since = self.loop.time()

    def _watch(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        has_rested = not is_answering and self.loop.time() - self._resting_since >= self.IDLE_S
        if has_rested or self._was_closing:
            self.transport.abort()
            return
        self._was_closing = self.transport.is_closing()
        self._timer = self.loop.call_later(self.IDLE_S, self._watch)
