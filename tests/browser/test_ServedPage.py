"""The page of `serve` in a browser: an image in by every way, its classes out; no other site is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from MLPipeline.Errors import one_line
from MLPipeline.serve.PredictApi import Service, make_api
from MLPipeline.serve.Server import listen
from tests.support.served_model import HOSTILE, picture, random_run, service_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
DROP = """(file) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(file.bytes)], file.name));
  return files;
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    with service_of(random_run(folder), collect=folder / "kept") as service:
        yield service


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with listen("127.0.0.1", 0, None) as server, server.running(make_api(service)):
        yield server.url


@pytest.fixture
def open_served(browser: Browser, url: str) -> Iterator[Open]:
    """Return `open(width=1280, **more) -> page`; fails if the page asks another server, complains or opens a box."""
    contexts, complaints = [], []

    def open_served(width: int = 1280, **more: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asks_for(request.url))
        page.goto(url)
        return page

    def asks_for(address: str) -> None:
        if not address.startswith((url, "data:", "blob:")):
            complaints.append(f"request: {address}")

    yield open_served
    for context in contexts:
        context.close()
    assert [each for each in complaints if "422 (Unprocessable" not in each] == []


def drop(page: Page, name: str, data: bytes) -> None:
    files = page.evaluate_handle(DROP, {"name": name, "bytes": list(data)})
    page.dispatch_event("#drop", "drop", {"dataTransfer": files})


def predicted(service: Service, data: bytes) -> str:
    return one_line(service.classifier.predict(data).pop().predicted).encode("utf-8", "backslashreplace").decode()


def shown(page: Page) -> str:
    return page.locator("#answer-title").inner_text()


def test_a_file_is_dropped_and_its_class_seen(open_served: Open, service: Service) -> None:
    page = open_served()
    drop(page, "<i>cat</i>.png", picture(1))
    page.wait_for_selector("#answer:visible")
    (expected,) = service.classifier.predict(picture(1), topk=3)
    assert page.locator("#answer h2").text_content() == expected.predicted
    assert page.locator("#bars li").count() == 3
    shares = [f"{100 * share:.1f} %" for _, share in expected.top]
    assert page.locator("#bars .row span:last-child").all_inner_texts() == [
        each.replace(" ", "\xa0") for each in shares
    ]
    assert page.locator("#facts").inner_text().startswith("<i>cat</i>.png · ")
    page.wait_for_selector("[role=status]:not(:empty)", state="attached")
    assert shares[0].replace(" ", "\xa0") in page.locator("[role=status]").text_content()
    width = page.locator("#bars .bar").first.evaluate("each => each.getBoundingClientRect().width")
    full = page.locator("#bars .track").first.evaluate("each => each.getBoundingClientRect().width")
    assert width / full == pytest.approx(expected.confidence, abs=0.01)


def test_a_text_file_is_refused_readably_and_the_next_image_answered(open_served: Open) -> None:
    page = open_served()
    drop(page, "notes.txt", b"Buy milk, and call the plumber.")
    page.wait_for_selector("#problem:visible")
    text = "notes.txt: the image cannot be read: not an image (text). Send a JPEG or PNG file"
    assert page.locator("[role=alert]:visible").inner_text() == text
    assert page.locator("#answer").is_hidden()
    drop(page, "cat.png", picture(1))
    page.wait_for_selector("#answer:visible")
    assert page.locator("#problem").is_hidden()
    page.set_input_files("#file", [{"name": f"{n}.txt", "mimeType": "", "buffer": b"text"} for n in range(7)])
    page.wait_for_selector("#problem:visible")
    lines = page.locator("#problem").inner_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0.txt:", "1.txt:", "2.txt:", "3.txt:", "4.txt:", "and"]
    assert lines[-1] == "and 2 more"


@pytest.mark.parametrize("width", [1280, 375])
def test_hostile_names_stay_text_and_the_page_fits(open_served: Open, service: Service, width: int) -> None:
    page = open_served(width)
    pictures = [picture(seed) for seed in range(3)]
    files = [
        {"name": f"<img src=x onerror=alert({n})>.png", "mimeType": "", "buffer": p} for n, p in enumerate(pictures)
    ]
    page.set_input_files("#file", files)
    page.wait_for_selector("#earlier li >> nth=1")
    page.wait_for_selector("#correction:visible")
    assert page.locator("#label option").all_text_contents() == [
        one_line(name).encode("utf-8", "backslashreplace").decode() for name in HOSTILE
    ]
    assert page.locator('[src="x"], script').count() == 1, "our own script"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_earlier_images_and_the_heat_map_are_reached_by_keyboard(open_served: Open, service: Service) -> None:
    page = open_served()
    page.set_input_files("#file", [{"name": f"{seed}.png", "mimeType": "", "buffer": picture(seed)} for seed in (1, 2)])
    page.wait_for_selector("#earlier button")
    assert shown(page).split() == predicted(service, picture(2)).replace("\\n", " ").split()
    page.focus("#earlier button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#facts:has-text('1.png')")
    assert page.evaluate("document.activeElement.id") == "answer", "what is shown has the focus"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#heat[aria-pressed=true]")
    assert page.locator("#photo").get_attribute("src").startswith("data:image/jpeg")
    assert page.locator("#photo").get_attribute("alt").startswith("Regions that support ")
    page.keyboard.press("Space")
    page.wait_for_selector("#heat[aria-pressed=false]")
    assert page.locator("#photo").get_attribute("src").startswith("blob:")


def test_an_image_is_pasted(open_served: Open) -> None:
    page = open_served()
    files = page.evaluate_handle(DROP, {"name": "pasted.png", "bytes": list(picture(1))})
    page.evaluate("files => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: files }))", files)
    page.wait_for_selector("#facts:has-text('pasted.png')")


def test_the_right_class_is_stored(
    open_served: Open, tmp_path_factory: pytest.TempPathFactory, service: Service
) -> None:
    page = open_served()
    drop(page, "cat.png", picture(5))
    page.wait_for_selector("#correction:visible")
    page.select_option("#label", index=0)
    page.click("text=Save")
    page.wait_for_selector("#status:has-text('Saved: ')")
    table = pd.read_csv(service.run.path.parent / "kept" / "labels.csv")
    assert table.label.tolist() == [HOSTILE[0]]


def test_without_a_camera_the_page_says_so(open_served: Open) -> None:
    page = open_served()
    page.click("#camera")
    page.wait_for_selector("#problem:has-text('The browser does not allow the camera, or there is none.')")
