"""The images in the body of a request: one as it is, or several as the parts of a form."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from MLPipeline.Errors import UsageError
from MLPipeline.serve.Limits import DEFAULT_LIMITS
from MLPipeline.serve.Web import plain

MAX_IMAGES = 64  # of one request
_HINT = "Send the bytes of an image file, or a form (multipart/form-data) with one part per image"
# Both forms of a request, for /openapi.json: FastAPI cannot derive them from the handler.
BODY = {
    "requestBody": {
        "required": True,
        "description": f"one image file, or a form with up to {MAX_IMAGES} of them",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent."""

    name: str
    data: bytes


class _InMemory(MultiPartParser):
    spool_max_size = DEFAULT_LIMITS.body_bytes  # no temporary files: only `--collect` writes to the disk


async def read_uploads(request: Request) -> list[Upload]:
    """Return the images of a request: the files of a form, or else the whole body.

    Raises:
        UsageError: there is none, or the form is damaged or has too many.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        data = await request.body()
        if not data:
            raise UsageError("the request has no image", _HINT)
        return [Upload("", data)]
    try:
        form = await _InMemory(request.headers, request.stream(), max_files=MAX_IMAGES, max_fields=MAX_IMAGES).parse()
    except (MultiPartException, KeyError, ValueError) as error:  # KeyError: no boundary; ValueError: an odd charset
        raise UsageError(f"the form cannot be read ({getattr(error, 'message', error)})", _HINT) from error
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise UsageError("the form has no file", _HINT)
    return [Upload(plain(file.filename or ""), await file.read()) for file in files]
