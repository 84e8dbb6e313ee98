"""The page to label on, and the API that it uses. What it shows comes from a `Desk`: a labelling or a review."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Path, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.Levels import EACH_ITS_OWN
from MLPipeline.decoding.ReadImage import UnreadableImage, read_thumbnail
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Shown import Group, Picture, Progress
from MLPipeline.serve.Web import Problem, new_api, page, plain, problem, served

MAX_SIDE, _QUALITY = 1600, 88
_AT_ONCE = 4  # pictures decoded at the same time: each may need the memory of a large photograph
_CHANGED = "the file has changed or is gone"

PageId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Desk(Protocol):
    """What the page shows and changes; see `Session` and `Review`."""

    photographs: Photographs

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their keys."""

    def add_classes(self, names: Sequence[str]) -> None:
        """Add classes."""

    def pictures(self, numbers: Sequence[int]) -> list[Picture]:
        """Return pictures as they are now, without those that are gone."""

    def next(self, page: str, number: int, without: Sequence[int]) -> list[Picture]:
        """Return the pictures that a page shows next."""

    def label(self, page: str, shown: Sequence[tuple[int, str]], name: str, picked_out: Sequence[int]) -> str:
        """Label pictures; return why some have no label."""

    def skip(self, number: int, why: str) -> None:
        """Do not show a picture again."""

    def undo(self, page: str) -> tuple[list[Picture], str]:
        """Take back the last step of a page."""

    def group(self) -> Group | None:
        """Return pictures that look like one class."""

    def progress(self) -> Progress:
        """Return how far the work is."""


class Shown(BaseModel):
    """A picture that was shown, with the stamp that it had."""

    number: Number
    stamp: str = Field(max_length=64)


class Classes(BaseModel):
    """Names of new classes."""

    names: list[str] = Field(max_length=2000)


class Wish(BaseModel):
    """A page that wants pictures, and those that it has already."""

    page: PageId
    number: int = Field(3, ge=0, le=20)
    without: list[Number] = Field([], max_length=100)


class Choice(BaseModel):
    """The class of pictures, and those picked out of their group."""

    page: PageId
    name: str
    pictures: list[Shown] = Field(max_length=100)
    picked_out: list[Number] = Field([], max_length=100)


class Skip(BaseModel):
    """A picture that is not labelled, and why, if it cannot be shown."""

    number: Number
    why: str = Field("", max_length=500)


class Undo(BaseModel):
    """A page whose last step is taken back."""

    page: PageId


class Outcome(BaseModel):
    """What became of a request, and how far the work is."""

    message: str = ""  # what was not done
    pictures: list[Picture] = []
    classes: tuple[str, ...] = ()
    progress: Progress


def label_api(desk: Desk, title: str, command: str, is_review: bool = False) -> FastAPI:
    """Return the app of the page for `desk`; `command` is what trains on the result."""
    api, handlers = new_api("label"), _Handlers(desk)
    look = served("labelling/label.js", "labelling/label.css")
    suggested = desk.photographs.class_folders()

    @api.get("/", include_in_schema=False)
    def show() -> HTMLResponse:
        content = {"title": title, "command": command, "is_review": is_review, "suggested": suggested}
        return page("labelling/label.html.jinja", look, **content)

    api.get("/progress")(handlers.progress)
    api.post("/classes")(handlers.classes)
    api.post("/next")(handlers.next)
    api.post("/label")(handlers.label)
    api.post("/skip")(handlers.skip)
    api.post("/undo")(handlers.undo)
    api.get("/group")(handlers.group)
    gone: dict[int | str, dict[str, Any]] = {410: {"model": Problem, "description": _CHANGED}}
    api.get("/photo/{number}", response_class=Response, responses=gone)(handlers.photo)
    return api


class _Handlers:
    """What answers the requests of pages at one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._decoding = threading.Semaphore(_AT_ONCE)

    def progress(self) -> Outcome:
        return self._outcome()

    def classes(self, new: Classes) -> Outcome:
        self._desk.add_classes(new.names)
        return self._outcome()

    def next(self, wish: Wish) -> Outcome:
        known = self._desk.pictures(wish.without)
        return self._outcome(pictures=[*known, *self._desk.next(wish.page, wish.number, wish.without)])

    def label(self, choice: Choice) -> Outcome:
        shown = [(each.number, each.stamp) for each in choice.pictures]
        return self._outcome(self._desk.label(choice.page, shown, choice.name, choice.picked_out))

    def skip(self, skipped: Skip) -> Outcome:
        self._desk.skip(skipped.number, skipped.why)
        return self._outcome()

    def undo(self, last: Undo) -> Outcome:
        pictures, message = self._desk.undo(last.page)
        return self._outcome(message, pictures)

    def group(self) -> Group | None:
        found = self._desk.group()
        return Group(found.name, tuple(map(_plain, found.pictures))) if found else None

    def photo(
        self, number: Annotated[int, Path(ge=0, lt=2**31)], stamp: str, side: Annotated[int, Query(ge=16)] = MAX_SIDE
    ) -> Response:
        photographs = self._desk.photographs
        if number >= len(photographs) or photographs.stamp(number) != stamp:
            return problem(410, _CHANGED)
        try:
            with self._decoding:
                pixels = read_thumbnail(photographs.path(number), min(side, MAX_SIDE), EACH_ITS_OWN)
        except UnreadableImage as error:
            return problem(410, error.reason)
        headers = {"Cache-Control": "private, max-age=3600, immutable"}  # the address changes with the file
        return Response(encode_jpeg(pixels, _QUALITY), media_type="image/jpeg", headers=headers)

    def _outcome(self, message: str = "", pictures: Sequence[Picture] = ()) -> Outcome:
        shown = [_plain(each) for each in pictures]
        progress = self._desk.progress()
        progress = replace(progress, problem=plain(progress.problem), notes=tuple(map(plain, progress.notes)))
        return Outcome(message=plain(message), pictures=shown, classes=self._desk.classes, progress=progress)


def _plain(picture: Picture) -> Picture:
    """Return the picture with a name that JSON can have, even if it is not UTF-8."""
    return Picture(picture.number, plain(picture.name), picture.stamp, picture.proposals, picture.given)
