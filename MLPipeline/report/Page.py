"""HTML pages: each is one self-contained file, rendered from a template in this folder or in that of another room.

Style, script and pictures are embedded, nothing is fetched, and the Content-Security-Policy forbids everything else, so
a page can be opened from disk or sent by e-mail. Text from files or the user stays text: every expression of a template
is escaped, and control characters and marks that change the writing direction are shown as escapes.

Pages that a server shows (`serve/Web`) are rendered in the same way; they may also ask that server for more.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemBytecodeCache, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from MLPipeline.Errors import one_line
from MLPipeline.files.AtomicFile import write_text

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Parts:
    """The style sheets and the script that are embedded in a page, and what else it may load."""

    styles: tuple[str, ...] = ("style.css",)
    script: str = "page.js"
    sources: str = "img-src data:"  # directives of the Content-Security-Policy

    @property
    def style(self) -> Markup:
        """The style sheets as one text."""
        return Markup("").join(map(_resource, self.styles))

    @property
    def policy(self) -> str:
        """The Content-Security-Policy: it allows this style, this script and these sources."""
        return (
            f"default-src 'none'; {self.sources}; style-src '{_hash(self.style)}'; "
            f"script-src '{_hash(_resource(self.script))}'; base-uri 'none'; form-action 'none'"
        )


FILE = Parts()


class _CompiledTemplates(FileSystemBytecodeCache):
    """Caches compiled templates, which take 0.2 s to compile, in `__pycache__`, under the same rules as Python does.

    Each file contains a hash of its template and of this file, so that edited ones are compiled again.
    """

    def __init__(self) -> None:
        super().__init__(str(FOLDER / "__pycache__"), "%s.jinja.pyc")

    def get_source_checksum(self, source: str) -> str:
        """Return the hash that identifies the source of a compiled template."""
        return super().get_source_checksum(source + Path(__file__).read_text(encoding="utf-8"))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a compiled template, unless that is disabled or not possible."""
        with contextlib.suppress(OSError):  # the folder is not writable, or the disk is full
            if not sys.dont_write_bytecode:
                super().dump_bytecode(bucket)


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Render `template` with `content` and write it to `path`, completely or not at all.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    write_text(path, render(template, **content))


def render(template: str, parts: Parts = FILE, **content: object) -> str:
    """Return the HTML of a `template` rendered with `content`.

    Templates extend `base.html.jinja`, which has style, script and policy. Filters: `percent`, `points`, `count`,
    `duration`.
    """
    page = _environment().get_template(template)
    return page.render(**content, style=parts.style, script=_resource(parts.script), policy=parts.policy)


def percent(share: float | None, decimals: int = 1) -> str:
    """Return `share` (0 to 1) as a percentage with a non-breaking space; a dash for None."""
    return "–" if share is None else f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def points(gain: tuple[float, float]) -> str:
    """Return the bounds of a change of the accuracy as text: `+0.3 to +0.9 points`, `up to +0.9 points`."""
    low, high = (f"{100 * bound:+.1f}" for bound in gain)
    if low == high:
        return f"{low} points"
    return f"up to {high} points" if gain[0] == 0 else f"{low} to {high} points"


def count(number: int, noun: str = "", plural: str = "") -> str:
    """Return `1,234`, `1 image` or `2 images`."""
    noun = noun if number == 1 else plural or f"{noun}s" * bool(noun)
    return f"{number:,}" + (f"\N{NO-BREAK SPACE}{noun}" if noun else "")


def duration(seconds: float) -> str:
    """Return `8.3 s`, `2 min 14 s` or `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_folders()),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        bytecode_cache=_CompiledTemplates(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points, "count": count, "duration": duration}
    return environment


def _folders() -> tuple[Path, Path]:
    """Return where templates, styles and scripts are looked for: a file of another room is called `serve/page.js`."""
    return FOLDER, FOLDER.parent


def _visible(value: object) -> object:
    """Return text with its control characters escaped; the output of templates (`Markup`) is not changed."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _resource(name: str) -> Markup:
    """Return the text of our style sheet or script, which is embedded unchanged."""
    path = next(folder / name for folder in _folders() if (folder / name).is_file())
    text = path.read_text(encoding="utf-8")
    assert "</" not in text, f"{name} would end its element"
    return Markup(text)  # noqa: S704 - our own file


def _hash(text: str) -> str:
    """Return the source expression by which a Content-Security-Policy allows this one style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
