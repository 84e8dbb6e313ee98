"""The report as a person uses it: press, sort, filter, read on a phone, in the dark, with the keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import TEST
from tests.support.page_cases import HOSTILE, NO_WEIGHTS, content_of, index_of, records

THREE = ("cat", "dog", "emu")


def three(tmp_path: Path, number: int = 9, **more: object):
    """Every third cat is classified as a dog."""
    return content_of(index_of(tmp_path / "Data", THREE, (2, 2, number)), {0: 1}, **more)


def shown(page) -> list[str]:
    return [text.split("\n")[0] for text in page.locator("ul.gallery[data-filtered] > li:visible").all_inner_texts()]


def column(page, section: str, number: int) -> list[str]:
    return page.locator(f"{section} tbody tr > :nth-child({number})").all_inner_texts()


def test_a_cell_of_the_matrix_shows_the_images_behind_it(open_report, tmp_path: Path) -> None:
    page = open_report(three(tmp_path))
    assert shown(page) == ["cat → dog"] * 3
    page.click('.matrix button[data-true="2"][data-predicted="2"]')
    assert shown(page) == ["emu"] * 9
    assert page.locator("#gallery-status").inner_text() == "emu, correct: 9 images"
    assert page.evaluate("document.activeElement.textContent") == "Images"
    assert page.locator('[aria-pressed="true"]').all_inner_texts() == ["9"]
    page.click("text=All 27")
    assert len(shown(page)) == 27
    page.click('.pairs button:has-text("cat")')
    assert shown(page) == ["cat → dog"] * 3
    assert page.locator('.matrix [aria-pressed="true"]').inner_text() == "3"  # the same cell


def test_the_keyboard_does_all_that_the_mouse_does(open_report, tmp_path: Path) -> None:
    page = open_report(three(tmp_path))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.focus('.matrix button[data-true="1"][data-predicted="1"]')
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(ring) == "solid"
    page.keyboard.press("Enter")
    assert shown(page) == ["dog"] * 9


def test_the_table_of_classes_sorts_both_ways(open_report, tmp_path: Path) -> None:
    page = open_report(three(tmp_path))
    heading = page.locator("#classes thead th", has_text="Recall").first
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, "#classes", 1) == ["dog", "emu", "cat"]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, "#classes", 3) == ["66.7\N{NO-BREAK SPACE}%", *["100.0\N{NO-BREAK SPACE}%"] * 2]
    page.click("#classes thead th:first-child button")
    assert column(page, "#classes", 1) == ["cat", "dog", "emu"]
    assert page.locator("#classes [aria-sort]").count() == 1


def test_more_images_come_when_asked_for(open_report, tmp_path: Path) -> None:
    page = open_report(three(tmp_path, 20))
    page.click("text=All 60")
    assert len(shown(page)) == 48
    page.click("#gallery-more")
    assert len(shown(page)) == 60 and page.locator("#gallery-more").is_hidden()


def test_heat_maps_take_the_place_of_photos(open_report, tmp_path: Path) -> None:
    content = three(tmp_path)
    first = int(content.index.positions(TEST)[0])  # a cat classified as a dog
    page = open_report(three(tmp_path, heat_maps={first: np.zeros((48, 64, 3), np.uint8)}))
    assert page.locator("img.heat:visible").count() == 0
    page.click("#gallery-heat")
    assert page.locator("img.heat:visible").count() == 1
    assert page.locator("ul.gallery[data-filtered] img.photo:visible").count() == 2  # of those without one


def test_a_command_is_copied_whole(open_report, tmp_path: Path) -> None:
    page = open_report(three(tmp_path), permissions=["clipboard-read", "clipboard-write"])
    page.locator("button.copy").first.click()
    page.wait_for_selector("button.copy:has-text('Copied'), button.copy:has-text('Selected')")
    if page.locator("button.copy").first.inner_text() == "Copied":
        command = page.evaluate("navigator.clipboard.readText()")
    else:
        command = page.evaluate("getSelection().toString()")
    assert command.startswith("python Engine.py predict IMAGE_OR_FOLDER --run ")


@pytest.mark.parametrize("width", [1280, 375])
def test_hostile_names_stay_text(open_report, tmp_path: Path, width: int) -> None:
    skipped = (Skipped("<img src=y onerror=alert(4)>\udcff.heic", "HEIC: convert to JPEG or PNG"),)
    index = index_of(tmp_path / "Data", HOSTILE, (1, 1, 3))
    page = open_report(content_of(index, {0: 1, 1: 2, 2: 3, 4: 5}, skipped, weights=NO_WEIGHTS), width)
    visible = [name.replace("\n", "\\n").replace("\u202e", "\\u202e") for name in HOSTILE]
    assert column(page, "#classes", 1) == visible
    assert page.locator('[src="x"], [src="y"], [onmouseover]').count() == 0
    assert page.locator("script").count() == 1
    assert "49" not in page.locator(".matrix thead").inner_text()
    page.locator("#data summary", has_text="not used").click()
    assert "<img src=y onerror=alert(4)>\\udcff.heic" in page.locator("#data").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".pairs button").first.click()
    assert page.locator("#gallery-status").inner_text().startswith(f"{visible[0]} classified as {visible[1]}: ")


def test_the_policy_lets_no_other_script_run(open_report, tmp_path: Path, browser) -> None:
    page = browser.new_page()
    path = tmp_path / "report.html"
    open_report(three(tmp_path)).close()
    page.goto(path.as_uri())
    run = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    page.evaluate(f"() => {{ {run} }}")
    assert page.evaluate("window.ran") is None
    page.evaluate('() => { document.body.innerHTML = \'<b style="color: red" onclick="window.ran = 1">x</b>\' }')
    page.click("b")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("getComputedStyle(document.querySelector('b')).color") != "rgb(255, 0, 0)"
    page.close()


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("case", ["one class", "no test", "no images held out", "no mistakes", "interrupted", "53"])
def test_every_kind_of_run_has_its_page(open_report, tmp_path: Path, case: str, width: int) -> None:
    data = tmp_path / "Data"
    content = {
        "one class": lambda: content_of(index_of(data, ("cat",), (2, 2, 2))),
        "no test": lambda: content_of(index_of(data, THREE, (2, 4, 0)), {0: 1}),
        "no images held out": lambda: content_of(index_of(data, THREE, (2, 0, 0))),
        "no mistakes": lambda: content_of(index_of(data, THREE, (2, 2, 2))),
        "interrupted": lambda: content_of(
            index_of(data, THREE, (2, 2, 2)), scored=(), metrics={}, history=records(2), interrupted="Ctrl-C"
        ),
        "53": lambda: content_of(index_of(data, tuple(f"the card {i}" for i in range(53)), (1, 1, 2)), {0: 1, 5: 40}),
    }[case]()
    page = open_report(content, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expected = {
        "one class": "No mistakes",
        "no test": "of 12 validation images are classified correctly",
        "no images held out": "so the accuracy is not known",
        "no mistakes": "No mistakes",
        "interrupted": "2 epochs of 3 completed",
        "53": "of 106 test images",
    }[case]
    assert expected in " ".join(page.locator("body").inner_text().split())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_paper(open_report, tmp_path: Path, scheme: str) -> None:
    page = open_report(three(tmp_path, weights=NO_WEIGHTS), color_scheme=scheme)
    paper = luminance(page, "document.body", "backgroundColor")
    assert (paper < 0.05) == (scheme == "dark")
    for selector in ("h1", ".verdict", ".facts dt", ".wrong", ".page-nav a", "summary", ".gallery .file", "svg text"):
        prop = "fill" if selector == "svg text" else "color"
        ink = luminance(page, f"document.querySelector({selector!r})", prop)
        high, low = max(ink, paper), min(ink, paper)
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector  # WCAG 2.2, 1.4.3


def luminance(page, element: str, prop: str) -> float:
    """Return the relative luminance of a colour, as WCAG defines it."""
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle({element}).{prop}"))[:3])
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
