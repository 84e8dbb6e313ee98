"""What goes on while a page is used: features come in, and the classifier learns from new labels."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from MLPipeline.Errors import PipelineError
from MLPipeline.labelling.FeatureFeed import FeatureFeed, OnRows, OnUnreadable
from MLPipeline.labelling.Session import Session

_POLL_S = 0.2
_END_S = 5.0  # that a batch or a round of learning may take at the end

MakeFeed = Callable[[OnRows, OnUnreadable], FeatureFeed]

logger = logging.getLogger(__name__)


@contextmanager
def in_background(session: Session, make_feed: MakeFeed) -> Iterator[None]:
    """Compute features and learn inside the `with` block; without them, pictures are shown in random order.

    `make_feed` returns what computes the features; it may take a while, and runs in the background as well.
    """
    is_over = threading.Event()
    feeds: list[FeatureFeed] = []

    def feed() -> None:
        feeds.append(make_feed(session.features.add, session.skip))
        if is_over.is_set():
            return
        photographs = session.photographs
        feeds[0].compute(session.to_learn_from, [photographs.path(number) for number in session.to_learn_from])

    def learn() -> None:
        while not is_over.wait(_POLL_S):
            if session.is_worth_learning:
                session.learn()

    threads = [threading.Thread(target=_noting, args=(session, work), daemon=True) for work in (feed, learn)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for each in feeds:
            each.stop()
        for thread in threads:
            thread.join(_END_S)


def _noting(session: Session, work: Callable[[], None]) -> None:
    """Do `work`; note on the page why it failed: labelling goes on, without proposals."""
    try:
        work()
    except PipelineError as error:
        session.notes.append(f"no proposals: {error}")
    except Exception:
        session.notes.append("no proposals: a bug of ours; the console says more")
        logger.exception("no proposals")
