"""What every page owes: nothing fetched, nothing run but ours, all that comes from outside is text."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import CodeType

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import one_line
from MLPipeline.report import Page as PageFile
from MLPipeline.report.Page import count, duration, percent, render, write_page
from MLPipeline.scoring.Comparison import Comparison, Flip


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_about(name: str) -> str:
    flip = Flip(name, name, (name, name), (0.5, 0.75))
    comparison = Comparison(("1-a", name), "test", both=5, only_first=1, only_second=0, neither=2, flips=(flip,))
    return render("comparison.html.jinja", comparison=comparison, shown=[])


@given(st.text(st.characters()))
def test_a_name_never_becomes_markup(name: str) -> None:
    page = Reader(page_about(name))
    assert page.tags == Reader(page_about("x")).tags
    # Parsers read a NUL or a lone surrogate as they like; `one_line` has turned all other controls into escapes.
    assert "\x00" not in page.text and "\n" not in one_line(name)


@pytest.mark.parametrize("name", ["<b>", "a\nb", "\u202ertl", "&amp;", "'\"", "\x00", "\x1b[2J"])
def test_names_are_seen_as_they_are(name: str) -> None:
    assert f"1-a and {one_line(name)} on the same" in Reader(page_about(name)).text


def test_the_policy_lets_our_own_style_and_script_through_and_nothing_else() -> None:
    page = page_about("x")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and " style=" not in page


def test_figures_are_told_for_people() -> None:
    assert percent(0.98765) == "98.8\N{NO-BREAK SPACE}%" and percent(None) == "–" and percent(1, 0)[:3] == "100"
    texts = [count(1234), count(1, "image"), count(0, "image"), count(2, "class", "classes")]
    assert texts == ["1,234", "1\N{NO-BREAK SPACE}image", "0\N{NO-BREAK SPACE}images", "2\N{NO-BREAK SPACE}classes"]
    assert [duration(seconds) for seconds in (8.34, 59.4, 134, 11100)] == ["8.3 s", "59 s", "2 min 14 s", "3 h 5 min"]


def test_a_page_is_written_whole_in_utf_8(tmp_path: Path) -> None:
    comparison = Comparison(("🂡", "bytes \udcff"), "val", 1, 0, 0, 0, ())
    write_page(tmp_path / "page.html", "comparison.html.jinja", {"comparison": comparison, "shown": []})
    text = (tmp_path / "page.html").read_bytes().decode("utf-8")
    assert "🂡" in text and "bytes \\udcff" in text and text.endswith("</html>")


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of templates of their own."""
    for file in (*PageFile.FOLDER.glob("*.jinja"), PageFile.FOLDER / "style.css", PageFile.FOLDER / "page.js"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(PageFile, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    PageFile._environment.cache_clear()
    yield tmp_path
    PageFile._environment.cache_clear()


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the templates that are compiled for a page made as by a new process."""
    PageFile._environment.cache_clear()
    names: list[str] = []
    real = jinja2.Environment.compile

    def compile_(self: jinja2.Environment, source: str, name: str, *others: object) -> CodeType:
        names.append(name)
        return real(self, source, name, *others)

    with monkeypatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", compile_)
        page_about("x")
    return names


def test_templates_are_compiled_once_and_again_when_edited(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled(monkeypatch)
    assert {"base.html.jinja", "comparison.html.jinja"} <= set(first) and compiled(monkeypatch) == []
    edited = templates / "comparison.html.jinja"
    edited.write_text(edited.read_text().replace("on the same", "on the very same"))
    assert compiled(monkeypatch) == ["comparison.html.jinja"] and "on the very same" in page_about("x")
    for file in (templates / "__pycache__").iterdir():
        file.write_bytes(file.read_bytes()[:-50])
    assert sorted(compiled(monkeypatch)) == sorted(first) and compiled(monkeypatch) == []


def test_templates_that_cannot_be_kept_are_compiled_each_time(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (templates / "__pycache__").rmdir()
    assert compiled(monkeypatch) == compiled(monkeypatch) != []
    (templates / "__pycache__").mkdir()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert compiled(monkeypatch) == compiled(monkeypatch) != []
    assert not list((templates / "__pycache__").iterdir())
