"""`python Engine.py serve`: a page and an API that answer images with the model of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from MLPipeline.commands.Destinations import reserve
from MLPipeline.commands.OpenRun import open_run
from MLPipeline.Config import Config
from MLPipeline.console.Console import say
from MLPipeline.Errors import ResourceError
from MLPipeline.files.Lock import held
from MLPipeline.files.RunFolder import find_run
from MLPipeline.Predict import ImageClassifier
from MLPipeline.serve.Packages import require_web_packages


def run(config: Config) -> None:
    """Answer images on `--host` and `--port` until a signal comes.

    Raises:
        UsageError: there is no such run, a token is missing, or `--collect` lies inside the images or a run.
        ResourceError: a package is missing, the port is in use, or `--collect` cannot be written.
        Interrupted: a signal has come.
    """
    require_web_packages("serve", has_api=True)
    from MLPipeline.serve.Batcher import Batcher
    from MLPipeline.serve.Collection import Collection
    from MLPipeline.serve.Metrics import ServerMetrics
    from MLPipeline.serve.PredictApi import Service, make_api
    from MLPipeline.serve.Server import listen

    reserved = reserve(config, find_run(config.output, config.run))
    if config.collect:
        reserved.check_folder("--collect", config.collect)
    address = config.host, config.port, config.token, config.public_name
    with listen(*address) as server, _alone_in_folder(config):
        opened, metrics = open_run(config), ServerMetrics()
        classifier = ImageClassifier(opened.model, opened.card, config.precision)
        collection = Collection(config.collect, classifier.classes) if config.collect else None
        _warm_up(classifier)
        with Batcher(classifier, config.workers, observe=metrics.batch) as batcher:
            service = Service(classifier, opened.run, batcher, metrics, config.topk, collection)
            say(f"serve    {opened.card.model}: {len(classifier.classes)} classes, {classifier.device}")
            server.run(make_api(service), observe=metrics.request, open_browser=config.open)


@contextlib.contextmanager
def _alone_in_folder(config: Config) -> Iterator[None]:
    """Keep other servers out of the folder of `--collect`."""
    if config.collect is None:
        yield
        return
    try:
        config.collect.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"--collect {config.collect}: cannot be written ({error.strerror})", "Give another folder"
        ) from error
    with held(config.collect / "lock", config.collect, timeout_s=0):
        yield


def _warm_up(classifier: ImageClassifier) -> None:
    """Run the model once for one image and for several: libraries prepare themselves at first use."""
    black = np.zeros((8, 8, 3), np.uint8)
    classifier.predict([black])
    classifier.predict([black, black])
