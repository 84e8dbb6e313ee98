"""The API and the page of `serve`: POST /predict, GET /model, /health, /metrics, /openapi.json, and / for people.

curl --data-binary @cat.jpg http://127.0.0.1:8000/predict
curl -F image=@cat.jpg -F image=@dog.jpg 'http://127.0.0.1:8000/predict?topk=5&heatmap=1'
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.PlainFile import UnusableFileError, read_bytes
from MLPipeline.files.RunFolder import Run
from MLPipeline.Predict import Answer, ImageClassifier
from MLPipeline.serve.Batcher import Batcher
from MLPipeline.serve.Collection import Collection
from MLPipeline.serve.Metrics import CONTENT_TYPE, ServerMetrics
from MLPipeline.serve.Schemas import Correction, Health, ImageAnswer, ModelInfo, Predictions, Share
from MLPipeline.serve.Uploads import BODY, Upload, read_uploads
from MLPipeline.serve.Web import Problem, new_api, page, plain, served

_HEAT_QUALITY = 90
_MAX_TOPK = 100_000
_REPORT, _MAX_REPORT_BYTES = "report.html", 500 * 10**6
# A report may come from another machine: it runs without the rights of this server's own pages.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LOOK = served("serve/predict.js", "serve/predict.css")

logger = logging.getLogger(__name__)
_router = APIRouter()


@dataclass(frozen=True)
class Service:
    """What the routes use."""

    classifier: ImageClassifier
    run: Run
    batcher: Batcher
    metrics: ServerMetrics
    topk: int = 3  # classes of an answer, unless a request states it
    collection: Collection | None = None

    @cached_property
    def name(self) -> str:
        """The name of the run."""
        return plain(self.run.path.resolve().name)


def make_api(service: Service) -> FastAPI:
    """Return the app that answers with the model of `service`."""
    api = new_api("Image classifier")
    api.state.service = service
    service.metrics.watch_queue(lambda: service.batcher.num_waiting)
    api.include_router(_router)
    return api


@_router.post("/predict", openapi_extra=BODY)
async def predict(
    request: Request,
    topk: Annotated[int | None, Query(ge=1, le=_MAX_TOPK, description="classes per image")] = None,
    heatmap: Annotated[bool, Query(description="draw which regions support the class")] = False,
) -> Predictions:
    """Return the classes of the images in the body; an unreadable one among several has an `error`."""
    service, started = _service_of(request), time.monotonic()
    uploads = await read_uploads(request)
    waiting = service.batcher.submit_all([each.data for each in uploads], topk or service.topk, heatmap)
    found = await asyncio.gather(*map(asyncio.wrap_future, waiting))
    answers = [await _described(service, *pair, heatmap) for pair in zip(uploads, found, strict=True)]
    if all(answer.error for answer in answers):
        raise UsageError(f"the image cannot be read: {answers[0].error}", "Send a JPEG or PNG file")
    milliseconds = round(1000 * (time.monotonic() - started), 2)
    return Predictions(model=service.name, milliseconds=milliseconds, answers=answers)


@_router.post("/correct", responses={409: {"model": Problem, "description": "started without --collect"}})
def correct(request: Request, correction: Correction) -> Correction:
    """Store the right class of an image that was sent before; only with --collect."""
    collection = _service_of(request).collection
    if collection is None:
        raise HTTPException(409, "this server keeps no images: start it with --collect DIR")
    collection.correct(correction.id, correction.label)
    return correction


@_router.get("/model")
def model(request: Request) -> ModelInfo:
    """Return what answers: the network, its classes, its accuracy on test images."""
    service = _service_of(request)
    card, scores = service.classifier.card, service.run.metrics.get("test") or {}
    return ModelInfo(
        run=service.name,
        model=card.model,
        classes=list(map(plain, card.classes)),
        image_size=card.image_size,
        device=service.classifier.device,
        test_accuracy=scores.get("accuracy"),
        test_accuracy_ci95=scores.get("accuracy_ci95"),
        min_confidence=card.unknown.min_confidence if card.unknown else None,
        collects=service.collection is not None,
    )


@_router.get("/health")
def health() -> Health:
    """Return that the server answers; requires no token."""
    return Health()


@_router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Return the figures of the server in the text format of Prometheus."""
    return Response(_service_of(request).metrics.text(), media_type=CONTENT_TYPE)


@_router.get("/", include_in_schema=False)
def show(request: Request) -> HTMLResponse:
    """Return the page."""
    service = _service_of(request)
    has_report = (service.run.path / _REPORT).is_file()
    return page("serve/predict.html.jinja", _LOOK, about=model(request), topk=service.topk, has_report=has_report)


@_router.get("/report", include_in_schema=False)
def report(request: Request) -> Response:
    """Return the report of the run."""
    try:
        content = read_bytes(_service_of(request).run.path / _REPORT, _MAX_REPORT_BYTES)
    except UnusableFileError as error:
        raise HTTPException(404, f"the run has no report: {error}") from error
    return HTMLResponse(content, headers={"Content-Security-Policy": _REPORT_POLICY})


def _service_of(request: Request) -> Service:
    return request.app.state.service


async def _described(service: Service, upload: Upload, answer: Answer, with_heat: bool) -> ImageAnswer:
    """Return the answer as it is sent, and count and keep it."""
    is_read = not answer.reason
    service.metrics.image("unreadable" if not is_read else "withheld" if answer.is_withheld else "answered")
    about: dict[str, Any] = {}
    if is_read and service.collection:
        about["id"] = await run_in_threadpool(_keep, service.collection, upload.data, answer)
    if is_read and with_heat:
        about["heatmap"] = await run_in_threadpool(_heat_address, answer)
    top = [Share(class_name=plain(name), confidence=round(share, 6)) for name, share in answer.top]
    return ImageAnswer(
        name=upload.name,
        answered=is_read and not answer.is_withheld,
        predicted=top[0].class_name if is_read else None,
        confidence=top[0].confidence if is_read else None,
        top=top,
        remark=plain(answer.remark or answer.note) if is_read else "",
        error=plain(answer.reason) or None,
        **({"heatmap": None, "id": None} | about),
    )


def _heat_address(answer: Answer) -> str:
    assert answer.heat is not None
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(answer.heat, _HEAT_QUALITY)).decode()}"


def _keep(collection: Collection, data: bytes, answer: Answer) -> str | None:
    """Return the id of the image; None if it cannot be stored: that must not cost the sender the answer."""
    try:
        return collection.keep(data, answer)
    except ResourceError as error:
        logger.warning("--collect: %s", error)
        return None
