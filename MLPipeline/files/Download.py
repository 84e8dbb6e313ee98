"""Downloads a file of known hash: the complete file or an error, which comes soon even without a network."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import urlopen

from tqdm import tqdm

from MLPipeline.Errors import ResourceError
from MLPipeline.files.AtomicFile import unwritable, write_file

TIMEOUT_S = 20.0  # for the server to answer, and for each part of the file to arrive
CHUNK_BYTES = 2**18
MIN_BYTES_PER_TIMEOUT = 2**17  # 6.5 kB/s; at a lower rate, 100 MB would take over four hours


class UnavailableError(ResourceError):
    """The file is not available; this machine's disk is not the cause."""


class _TransferError(Exception):
    """Why the transfer failed, in a few words."""


def download(
    url: str,
    target: Path,
    digest: str,
    algorithm: str = "sha256",
    instead: str = "give a copy of it with --weights FILE",
    elsewhere: str = "set TORCH_HOME to another folder",
) -> None:
    """Download `url` to `target` atomically; its hash (hex) must start with `digest`.

    On failure, the error says what the user can do `instead`, or how to save it `elsewhere` if the disk is full.
    Proxies are taken from the environment (`https_proxy`). The progress bar goes to stderr if that is a terminal.

    Raises:
        UnavailableError: no response, an error, a truncated or too slow transfer, or a file with another hash.
        ResourceError: `target` cannot be written.
    """
    try:
        with _open(url) as response:
            write_file(target, lambda file: _receive(response, file, digest, hashlib.new(algorithm), target.name))
    except _TransferError as error:
        raise UnavailableError(
            f"{url}: cannot be downloaded ({error})", f"Save it as {target}, or {instead}"
        ) from error
    except ResourceError as error:
        if isinstance(error.__cause__, OSError):
            error = unwritable(target, error.__cause__, f"{elsewhere}, or {instead}")
        raise error


def _open(url: str) -> HTTPResponse:
    """Return the server's response, with its headers read.

    The timeout of `urlopen` applies to each address and packet: a host with ten addresses behind a silent firewall
    takes ten times as long. Therefore a thread connects, and is abandoned when the time is over.
    """
    answers: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urlopen(url, timeout=TIMEOUT_S))
        except Exception as error:  # handed over, not swallowed
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT_S)
    except queue.Empty:
        raise _TransferError(f"no response within {TIMEOUT_S:g} s") from None
    if isinstance(answer, Exception):
        reason = answer if isinstance(answer, HTTPError) else getattr(answer, "reason", answer)
        raise _TransferError(reason) from answer
    return answer


def _receive(response: HTTPResponse, file: BinaryIO, digest: str, hasher: hashlib._Hash, name: str) -> None:
    """Write the body of `response` into `file` and compare its hash."""
    with tqdm(total=response.length, desc=name, unit="B", unit_scale=True, disable=None) as progress:
        for chunk in _chunks(response):
            file.write(chunk)
            hasher.update(chunk)
            progress.update(len(chunk))
    if not hasher.hexdigest().startswith(digest):
        raise _TransferError(f"hash mismatch: {hasher.hexdigest()[:16]}... instead of {digest[:16]}...")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives; raise if it is late, too slow or shorter than announced."""
    size = response.length  # on some versions of Python it decreases while reading
    received = received_in_time = 0
    deadline = time.monotonic() + TIMEOUT_S
    while size is None or received < size:
        try:
            chunk = response.read1(CHUNK_BYTES)  # not `read`, which waits for the last byte of the chunk
        except (OSError, HTTPException) as error:
            raise _TransferError(str(error) or type(error).__name__) from error
        if not chunk:
            break
        received += len(chunk)
        received_in_time += len(chunk)
        if time.monotonic() > deadline:
            if received_in_time < MIN_BYTES_PER_TIMEOUT:
                raise _TransferError(f"only {received_in_time} bytes in {TIMEOUT_S:g} s")
            received_in_time, deadline = 0, time.monotonic() + TIMEOUT_S
        yield chunk
    if size is not None and received < size:
        raise _TransferError(f"truncated: {received} of {size} bytes")
