"""What `/metrics` shows: requests, images, batches and the queue, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """The figures of one server since it was started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "classifier_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "classifier_request_seconds", "Time per request.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._images = Counter(
            "classifier_images",
            "Images by outcome: answered, withheld, unreadable.",
            ["outcome"],
            registry=self._registry,
        )
        self._batches = Histogram(
            "classifier_batch_images", "Images per pass of the model.", buckets=_SIZES, registry=self._registry
        )
        self._waiting = Gauge("classifier_waiting_images", "Images that are not answered yet.", registry=self._registry)

    def watch_queue(self, num_waiting: Callable[[], float]) -> None:
        """Show the number of images that wait, as `num_waiting` returns it."""
        self._waiting.set_function(num_waiting)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, outcome: str) -> None:
        """Count an image."""
        self._images.labels(outcome).inc()

    def batch(self, size: int) -> None:
        """Count a pass of the model."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self._registry)
