"""A browser for the tests of pages; without one they are skipped, and say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from MLPipeline.report.RunPage import write_report
from tests.support.page_cases import ReportContent

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the machine's Chromium, or the one that Playwright has fetched."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as engine:
        found = next(filter(None, map(shutil.which, NAMES)), engine.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(f"no browser: neither {', '.join(NAMES)} on the PATH nor Playwright's own")
        browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return `open(path, width=1280, **more) -> page`; fails if a page asks for anything, complains or opens a box."""
    contexts, complaints = [], []

    def open_page(path: Path, width: int = 1280, **more: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        own = path.resolve().as_uri()
        page.on("request", lambda request: asks_for(request.url, own))
        page.goto(own)
        return page

    def asks_for(url: str, own: str) -> None:
        if url.split("#")[0] != own and not url.startswith("data:"):
            complaints.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def open_report(open_page: Open, tmp_path: Path) -> Open:
    """Return `open(content, width=1280, **more) -> page`, the report of a made-up run."""

    def open_report(content: ReportContent, width: int = 1280, **more: object) -> Page:
        return open_page(write_report(tmp_path, content), width, **more)

    return open_report
