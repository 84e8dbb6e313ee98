from __future__ import annotations

from html.parser import HTMLParser

import pytest

from MLPipeline.report.AnswerCards import MAX_CARDS, answer_card, answer_cards
from tests.support.page_cases import HOSTILE


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", [*HOSTILE, "\udcff", "'\"&<>"])
def test_names_stay_text(name: str) -> None:
    page = Elements(answer_card(name, b"", [(name, 0.25)], name))
    assert {tag for tag, _ in page.tags} == {"div", "span"}
    assert {key for _, attributes in page.tags for key in attributes} <= {"style", "title"}
    shown = [text for text in page.text if "no picture" not in text and "%" not in text]
    assert len(shown) == 3 and len(set(shown)) == 1 and shown[0].isprintable()


def test_bars_are_as_long_as_the_probabilities() -> None:
    page = answer_card("x.jpg", b"\xff\xd8", [("cat", 0.8125), ("dog", 0.1875)])
    assert page.count("width:81.2%") == 1 and page.count("width:18.8%") == 1
    assert "81.2&nbsp;%" in page and 'src="data:image/jpeg;base64,/9g="' in page
    assert "italic" not in page and "italic" in answer_card("x.jpg", b"", [], "empty file")


def test_a_long_list_shows_its_beginning() -> None:
    made = []

    def cards() -> object:
        for number in range(1000):
            made.append(number)
            yield f"[{number}]"

    page = answer_cards(cards(), 1234)
    assert f"[{MAX_CARDS - 1}]" in page and f"[{MAX_CARDS}]" not in page and "and 1,210 more" in page
    assert len(made) <= MAX_CARDS and "more" not in answer_cards(["[0]"], 1) and "no answers" in answer_cards([], 0)
