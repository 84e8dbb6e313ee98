"""Standard streams that cannot fail: the work goes on when the console is gone.

A terminal is closed, `| head` ends, the disk of a redirected output is full, a service has no console at all: what
cannot be written is dropped, and the first error is kept for those who need to know.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from typing import Any, TextIO, cast

_GONE = (errno.EPIPE, errno.ESHUTDOWN, errno.EBADF)  # errors of a stream that never works again


class SafeStream:
    """A text stream that drops what `stream` does not take; `stream` is None where there is no console.

    All else (`encoding`, `fileno`, `buffer`) is that of the stream itself, and its `buffer` reports errors as usual.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error: OSError | None = None  # the first that occurred

    def write(self, text: str) -> int:
        """Write `text` if possible; characters outside the encoding of the stream become backslash escapes."""
        if self._stream is not None and not self._is_gone:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._keep(error)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        if self._stream is not None and not self._is_gone:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._keep(error)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return not self.closed and cast(TextIO, self._stream).isatty()

    @property
    def closed(self) -> bool:
        """Whether there is no stream."""
        return self._stream is None or self._stream.closed

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def settle(self) -> None:
        """After an error, send what the stream still holds to `/dev/null`.

        Otherwise the interpreter's own flush at exit would fail, which ends in exit code 120 or a message.
        """
        self.flush()  # a table may have been written to the buffer
        if self.error is None:
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = cast(TextIO, self._stream).fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)

    @property
    def _is_gone(self) -> bool:
        return self.error is not None and self.error.errno in _GONE

    def _keep(self, error: Exception) -> None:
        if self.error is None and isinstance(error, OSError) and not isinstance(error, io.UnsupportedOperation):
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def safe(stream: TextIO | None) -> TextIO:
    """Return `stream` as one that cannot fail."""
    return cast(TextIO, stream if isinstance(stream, SafeStream) else SafeStream(stream))


def open_missing_descriptors() -> None:
    """Open `/dev/null` on those of the descriptors 0, 1 and 2 that are closed.

    Otherwise the next file that is opened, such as `model.pt`, would get that number, and what a library prints would
    be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is `descriptor`
                os.set_inheritable(opened, True)  # as standard streams are: the drawing process needs them
