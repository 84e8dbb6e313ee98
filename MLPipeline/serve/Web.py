"""The web stack of all pages that this project serves: how to add one.

    def run(config: Config) -> None:                                  # of a verb
        require_web_packages("label")                                 # serve/Packages: before the imports below
        from MLPipeline.serve.Server import listen
        from MLPipeline.serve.Web import new_api, page, served

        with listen(config.host, config.port, config.token) as server:    # a port in use is reported at once
            api = new_api("label")
            look = served("labelling/label.js", "labelling/label.css")

            @api.get("/", include_in_schema=False)
            def show() -> HTMLResponse:
                return page("labelling/label.html.jinja", look, classes=...)

            @api.post("/label")                                       # `def`: in a thread; `async def`: must not block
            def label(choice: Choice) -> Progress: ...                # pydantic models in and out

            server.run(api, open_browser=config.open)                 # until Ctrl-C; raises `Interrupted`

- Templates extend `base.html.jinja` of `report/` and use the classes of its `style.css`. Style and script are embedded;
  no page loads anything from elsewhere. Attributes `style=` and `onclick=` are not executed: set `element.style` and
  listeners in the script. What the script must know, it fetches or finds in `data-` attributes.
- Everything that comes from outside is put into pages by `{{ }}` or `textContent`, never by `innerHTML`.
- `Guard` checks Host, Origin and token, limits and times every request, and adds the security headers. The body is
  complete before a handler is called.
- A `PipelineError` that a handler raises becomes `{"detail": "what. hint"}` (422; a `ResourceError`: 503).
- A verb with a page takes the settings `host`, `port`, `token` and `open`.
- Tests: `TestClient(Guard(api), base_url="http://127.0.0.1")` of Starlette, in the process and without a port.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from MLPipeline.Errors import PipelineError, ResourceError
from MLPipeline.report.Page import Parts, render
from MLPipeline.serve.Guard import OUR_BUG

_SERVED = "img-src 'self' data: blob:; connect-src 'self'"


class Problem(BaseModel):
    """Why a request was not answered, in one line."""

    detail: str


def new_api(title: str) -> FastAPI:
    """Return an app without routes, whose description is at /openapi.json and whose errors are all `Problem`s."""
    errors = {
        400: "the body cannot be parsed",
        401: "the token is missing or wrong",
        403: "foreign Host or Origin header",
        408: "the request did not arrive in time",
        413: "the request is too large",
        422: "what the request has cannot be used",
        503: "busy: try again",
    }
    described: dict[int | str, dict[str, object]] = {
        status: {"model": Problem, "description": text} for status, text in errors.items()
    }
    # No page with the description: those of FastAPI load their scripts from other sites.
    api = FastAPI(title=title, docs_url=None, redoc_url=None, responses=described)
    api.add_exception_handler(PipelineError, _on_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(Exception, _on_bug)
    return api


def served(script: str, *styles: str) -> Parts:
    """Return the parts of a page that asks its own server for more: its script, and style sheets after style.css."""
    return Parts(("style.css", *styles), script, _SERVED)


def page(template: str, parts: Parts, **content: object) -> HTMLResponse:
    """Return the response that shows a template rendered with `content`; `parts` as `served` returns them."""
    policy = f"{parts.policy}; frame-ancestors 'none'"
    return HTMLResponse(render(template, parts, **content), headers={"Content-Security-Policy": policy})


def plain(text: str) -> str:
    r"""Return `text` as JSON and HTTP can have it: bytes of a name that are not UTF-8 become `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def problem(status: int, why: str) -> JSONResponse:
    """Return the response to a request that is not answered."""
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(Problem(detail=plain(why)).model_dump(), status, headers)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    return problem(503 if isinstance(error, ResourceError) else 422, str(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found: Sequence[dict] = error.errors()
    return problem(422, "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in found))


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    return problem(500, OUR_BUG)  # Starlette raises the error again, and `Guard` prints it
