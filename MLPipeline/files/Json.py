"""JSON as the standard has it (RFC 8259): no NaN, no Infinity, no name twice; of files that anyone may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from MLPipeline.files.PlainFile import read_bytes

MAX_JSON_BYTES = 64 * 10**6  # metrics.json of 100,000 classes has 30 MB


def dump_json(content: object, indent: int | None = None, default: Callable[[Any], object] | None = None) -> str:
    """Return `content` as JSON; NaN and infinite numbers, which JSON does not have, become null.

    `default` converts objects that are not plain types, as in `json.dumps`.
    """
    try:
        return json.dumps(content, indent=indent, default=default, allow_nan=False)
    except ValueError:  # a number that is not finite: rare, so only then is the content copied
        finite = _finite(json.loads(json.dumps(content, default=default)))
        return json.dumps(finite, indent=indent, allow_nan=False)


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return what the JSON file `path` contains.

    Raises:
        ValueError: it is no regular file, too large, not UTF-8 or not JSON, nested too deeply, or has a name twice or
            a number that is not finite; the text says which.
    """
    return parse_json(read_bytes(path, max_bytes))


def parse_json(content: bytes) -> Any:
    """Return what `content`, JSON in UTF-8, contains.

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, or has a name twice or a number that is not finite.
    """
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_refuse, parse_float=_float, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"has the name {name[:40]!r} twice")
        content[name] = value
    return content


def _finite(content: Any) -> Any:
    """Return plain JSON content with None for each number that is not finite."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
