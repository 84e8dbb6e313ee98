"""The label page as a person uses it: keys, undo, groups, many classes, a phone, hostile names, a server that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from MLPipeline.images.Fixes import Fix
from MLPipeline.labelling.LabelPage import label_api
from MLPipeline.labelling.Photographs import Photographs
from MLPipeline.labelling.Review import Review
from MLPipeline.serve.Server import listen
from tests.support.label_cases import CLASSES, class_of, draw_photographs, label_next, labelling
from tests.support.served_model import HOSTILE

Show = Callable[..., tuple]


@pytest.fixture
def show(browser, tmp_path: Path) -> Iterator[Show]:
    """Return `show(number=60, classes=..., width=1280) -> page, session`; fails if the page complains."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def show(number: int = 60, classes: tuple[str, ...] = (), width: int = 1280, num_labels: int = 0) -> tuple:
            folder = draw_photographs(tmp_path / "photos", number)
            session = stack.enter_context(labelling(folder, tmp_path / "labels.csv"))
            if classes:
                session.add_classes(classes)
            label_next(session, num_labels)
            return open_desk(session, width), session

        def open_desk(desk, width: int = 1280, **more: object):
            server = stack.enter_context(listen("127.0.0.1", 0, None))
            stack.enter_context(server.running(label_api(desk, "photos", "python Engine.py --labels x", **more)))
            context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda message: complaints.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            own = server.url
            page.on("request", lambda request: request.url.startswith(own) or complaints.append(request.url))
            page.goto(own)
            return page

        show.open_desk = open_desk
        yield show
    assert [each for each in complaints if "ERR_CONNECTION_REFUSED" not in each and "410 (Gone)" not in each] == []


def shown_name(page) -> str:
    page.wait_for_function("() => document.getElementById('picture-name').textContent !== ''")
    return page.locator("#picture-name").inner_text()


def label_by_keys(page, number: int, classes: tuple[str, ...] = CLASSES) -> list[str]:
    names = []
    for _ in range(number):
        name = shown_name(page)
        names.append(name)
        page.keyboard.press(str(classes.index(class_of(name)) + 1))
        page.wait_for_function("name => document.getElementById('picture-name').textContent !== name", arg=name)
    return names


def wait_for_text(page, selector: str, text: str) -> None:
    """Wait until the elements of `selector` together have this `text`."""
    all_texts = "[...document.querySelectorAll(selector)].map(each => each.innerText).join('|')"
    page.wait_for_function(f"([selector, text]) => {all_texts} === text", arg=[selector, text], timeout=20_000)


def wait_for_line(page, start: str) -> str:
    page.wait_for_function(
        "start => document.getElementById('line').textContent.startsWith(start)", arg=start, timeout=20_000
    )
    return page.locator("#line").inner_text()


def test_classes_are_typed_twenty_pictures_labelled_by_keys_and_the_accuracy_moves(show: Show) -> None:
    page, session = show()
    page.fill("#names", "cat\ndog\n\nemu")
    page.click("text=Start")
    names = label_by_keys(page, 20)
    before = wait_for_line(page, "20 of 60 labelled")
    assert {name: label.name for name, label in session.file.labels.items()} == {n: class_of(n) for n in names}
    assert "accuracy not known yet" in before
    session.learn()
    first = wait_for_number_tested(page, session)
    label_by_keys(page, 8)
    wait_for_line(page, "28 of 60 labelled")
    session.learn()
    assert first < wait_for_number_tested(page, session), "one in eight is of the random sample"


def wait_for_number_tested(page, session) -> int:
    """Wait until the line states the accuracy on as many pictures as were tested last; return their number."""
    number = session._findings.accuracy.num_tested
    part = "() => document.getElementById('line').textContent.includes(' %) on {} random picture')"
    page.wait_for_function(part.replace("{}", str(number)), timeout=20_000)
    return number


def test_space_skips_u_undoes_and_buttons_do_the_same(show: Show) -> None:
    page, session = show(classes=CLASSES)
    skipped = shown_name(page)
    page.keyboard.press(" ")
    page.wait_for_function("name => document.getElementById('picture-name').textContent !== name", arg=skipped)
    labelled = shown_name(page)
    page.click("#classes button >> nth=1")
    wait_for_line(page, "1 of 60")
    assert session.file.labels[labelled].name == "dog" and skipped not in session.file.labels
    page.keyboard.press("u")
    wait_for_line(page, "0 of 60")
    page.wait_for_function("name => document.getElementById('picture-name').textContent === name", arg=labelled)
    page.keyboard.press("1")
    wait_for_line(page, "1 of 60")
    page.click("#undo")
    wait_for_line(page, "0 of 60")
    assert page.locator("#said").get_attribute("aria-live") == "polite" and labelled in page.inner_text("#said")


def test_a_group_is_confirmed_and_one_picked_out(show: Show) -> None:
    page, session = show(number=150, classes=CLASSES, num_labels=48)
    session.learn()
    page.wait_for_selector("#open-group:visible")
    page.keyboard.press("g")
    page.wait_for_selector("#group:visible")
    buttons = page.locator("#members button")
    number = buttons.count()
    out = buttons.nth(2).locator("img").get_attribute("alt")
    buttons.nth(2).click()
    assert page.locator("#confirm").inner_text().startswith(f"Label {number - 1} as ")
    page.keyboard.press("Escape")
    assert page.locator("#group").is_hidden() and page.locator("#work").is_visible()
    page.keyboard.press("g")
    page.wait_for_selector("#group:visible")
    buttons.nth(2).focus()
    page.keyboard.press(" ")
    assert buttons.nth(2).get_attribute("aria-pressed") == "true"
    page.locator("#group").focus()
    page.keyboard.press("Enter")
    wait_for_line(page, f"{48 + number - 1} of 150")
    assert out not in session.file.labels


def test_many_classes_are_found_by_typing(show: Show) -> None:
    names = tuple(f"class {number:03}" for number in range(500))
    page, session = show(classes=names)
    first = shown_name(page)
    assert page.locator("#classes button").count() == 9 and "and 491 more" in page.inner_text("#found")
    page.keyboard.type("class 417")
    wait_for_text(page, "#classes button .name", "class 417")
    page.keyboard.press("Enter")
    wait_for_line(page, "1 of 60")
    second = shown_name(page)
    page.keyboard.press("1")
    wait_for_line(page, "2 of 60")
    page.keyboard.press("Control+z")
    wait_for_line(page, "1 of 60")
    assert session.file.labels[first].name == "class 417" and second not in session.file.labels
    page.keyboard.type("nothing like this")
    wait_for_text(page, "#found", "No class matches.")


def test_hostile_names_stay_text(show: Show) -> None:
    names = tuple(name.encode("utf-8", "backslashreplace").decode().replace("\n", " ") for name in HOSTILE)
    page, session = show(classes=names)
    shown_name(page)
    assert page.locator("#classes .name").all_inner_texts() == [" ".join(name.split()) for name in names]
    assert page.locator("#classes script, #classes img").count() == 0
    page.keyboard.press("1")
    wait_for_line(page, "1 of 60")
    assert [label.name for label in session.file.labels.values()] == [names[0]]


def test_a_picture_that_cannot_be_shown_is_skipped_and_said(show: Show, tmp_path: Path) -> None:
    page, session = show(classes=CLASSES)
    shown_name(page)
    held = {picture for picture in session._turns._sent}
    for number in range(len(session.photographs)):
        if number not in held:
            session.photographs.path(number).write_bytes(b"no picture")
    label_by_keys(page, 4)
    page.wait_for_selector("#notes-box:visible", timeout=20_000)
    assert ".png: " in page.locator("#notes").text_content()


def test_it_is_readable_on_a_phone(show: Show) -> None:
    page, session = show(classes=CLASSES, width=375)
    shown_name(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    box = page.locator("#classes button").first.bounding_box()
    assert box["y"] + box["height"] < 800, "picture and classes on one screen"


def test_a_review_shows_both_classes_and_enter_keeps_the_label(show: Show, tmp_path: Path) -> None:
    folder = draw_photographs(tmp_path / "photos", 3)
    names = sorted(path.name for path in folder.iterdir())
    suspects = [Fix(name, "cat", "cat", "dog", 0.8) for name in names]
    review = Review(Photographs(folder, tuple(names), ()), ("cat", "dog"), suspects, tmp_path / "fixes.csv")
    with review.opened():
        page = show.open_desk(review, is_review=True)
        assert shown_name(page) == names[0]
        assert page.inner_text("#verdict") == "labelled cat, predicted dog (80 %)"
        page.keyboard.press("Enter")
        wait_for_line(page, "1 of 3 decided · 0 corrected")
        page.keyboard.press("2")
        wait_for_line(page, "2 of 3 decided · 1 corrected")
        page.click("#keep")
        wait_for_line(page, "3 of 3 decided · 1 corrected")
        assert page.locator("#done").inner_text() == "All of them are decided."
    rows = (tmp_path / "fixes.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["cat", "dog", "cat"]


def test_labels_wait_on_the_page_while_the_server_is_gone(show: Show, tmp_path: Path) -> None:
    page, session = show(classes=CLASSES)
    first = shown_name(page)
    page.route("**/label", lambda route: route.abort("connectionrefused"))
    page.keyboard.press(str(CLASSES.index(class_of(first)) + 1))
    page.wait_for_selector("#problem:visible")
    assert page.inner_text("#problem") == "The server does not answer; the latest labels wait on this page."
    assert not session.file.labels
    page.unroute("**/label")
    wait_for_line(page, "1 of 60")
    assert session.file.labels[first].name == class_of(first)
    page.wait_for_selector("#problem", state="hidden")
