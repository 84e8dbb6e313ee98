"""Measures `serve`: latency of one client, throughput of sixteen against the bare model, memory over many requests.

    python -m tests.benchmarks.Serve --run output/001-efficientnet_lite0 --images PHOTOS
    python -m tests.benchmarks.Serve --run RUN --images PHOTOS --requests 10000 --only soak

The server is a process of its own. Clients are threads of this process that send files as they are over connections
that stay open; both share the machine, so the clients take part of what is measured. "Model" is `predict` of the same
files from Python, decoding included; "forward" is the same model on pixels in memory, which is the upper limit.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from MLPipeline.images.FindImages import find_images
from MLPipeline.Predict import ImageClassifier, load
from tests.support.paths import ROOT

NUM_FILES, NUM_CLIENTS, BAD_SHARE = 400, 16, 0.05
BAD = (b"no image at all", b"", b"\xff\xd8\xff\xe0" + bytes(500), b"\x89PNG\r\n\x1a\n" + bytes(40))


@contextmanager
def server(run: Path) -> Iterator[tuple[int, int]]:
    """Yield the port and the process id of `python Engine.py serve`."""
    command = [sys.executable, "Engine.py", "serve", "--run", str(run), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = next(line for line in process.stdout if line.startswith("open"))
            yield int(line.split()[1].rstrip("/").rsplit(":", 1)[1]), process.pid
        finally:
            process.terminate()


class Client:
    """One connection; `send` returns the status and the seconds of a request."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, body: bytes) -> tuple[int, float]:
        start = time.perf_counter()
        self._connection.request("POST", "/predict", body)
        response = self._connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - start


def send_all(port: int, bodies: Sequence[bytes], num_clients: int) -> tuple[list[int], list[float], float]:
    """Return statuses, seconds of each request, and seconds in all, of `num_clients` who share the requests."""
    todo, lock = iter(bodies), threading.Lock()
    statuses: list[int] = []
    seconds: list[float] = []

    def work() -> None:
        client = Client(port)
        while True:
            with lock:
                body = next(todo, None)
            if body is None:
                return
            status, taken = client.send(body)
            statuses.append(status)
            seconds.append(taken)

    threads = [threading.Thread(target=work) for _ in range(num_clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses, seconds, time.perf_counter() - start


def latency(port: int, files: Sequence[bytes]) -> None:
    """Print the latency that a single client sees."""
    send_all(port, files[:20], 1)
    _, seconds, _ = send_all(port, files, 1)
    ms = sorted(1000 * each for each in seconds)
    p99 = ms[int(0.99 * len(ms))]
    print(f"one client       p50 {statistics.median(ms):6.1f} ms   p99 {p99:6.1f} ms   {len(ms)} requests")


def throughput(port: int, files: Sequence[bytes], classifier: ImageClassifier) -> None:
    """Print images per second of sixteen clients, of `predict` and of the forward pass, in turns."""
    ready = [classifier.prepare(data) for data in files]
    rates: dict[str, list[float]] = {"serve": [], "model": [], "forward": []}
    send_all(port, files[:64], NUM_CLIENTS)
    for _ in range(3):
        rates["serve"].append(len(files) / send_all(port, files, NUM_CLIENTS)[2])
        for name, run in (
            ("model", lambda: list(classifier.predict(list(files)))),
            ("forward", lambda: list(classifier.answer(ready))),
        ):
            start = time.perf_counter()
            run()
            rates[name].append(len(files) / (time.perf_counter() - start))
    best = {name: max(each) for name, each in rates.items()}
    shares = "   ".join(
        f"{best['serve'] / best[name]:.2f} of {name} {best[name]:.0f}/s" for name in ("forward", "model")
    )
    print(f"{NUM_CLIENTS} clients       serve {best['serve']:.0f} images/s   {shares}")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def soak(port: int, pid: int, files: Sequence[bytes], num_requests: int) -> None:
    """Print memory and statuses over many requests, one in twenty of them bad."""
    every, good, bad = round(1 / BAD_SHARE), itertools.cycle(files), itertools.cycle(BAD)
    bodies = [next(bad) if number % every == 0 else next(good) for number in range(num_requests)]
    counted: Counter[int] = Counter()
    for part in range(10):
        statuses, _, _ = send_all(
            port, bodies[part * num_requests // 10 : (part + 1) * num_requests // 10], NUM_CLIENTS
        )
        counted.update(statuses)
        print(
            f"soak {(part + 1) * num_requests // 10:7} requests   {memory_mb(pid):7.1f} MB   {dict(counted)}",
            flush=True,
        )
    wrong = {status: number for status, number in counted.items() if status >= 500 and status != 503}
    print(f"soak             statuses of 500 and more, other than 503: {wrong or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", choices=("latency", "throughput", "soak"))
    flags = parser.parse_args()
    paths, _ = find_images([flags.images], follow_links=False)
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // NUM_FILES)]][:NUM_FILES]
    classifier = load(flags.run)
    print(f"{classifier}, {len(files)} files, {sum(map(len, files)) / len(files) / 1000:.0f} kB on average")
    with server(flags.run.resolve()) as (port, pid):
        if flags.only in (None, "latency"):
            latency(port, files)
        if flags.only in (None, "throughput"):
            throughput(port, files, classifier)
        if flags.only in (None, "soak"):
            soak(port, pid, files, flags.requests)


if __name__ == "__main__":
    main()
