"""The fault matrix is whole: each of its rows has a test, and docs/reliability.md lists them as they are now."""

from __future__ import annotations

from collections import Counter

from tests.docs import RELIABILITY_PAGE, reliability_page
from tests.support.promises import promises, rows_without_test


def test_every_row_has_a_test() -> None:
    assert rows_without_test() == set()


def test_every_test_of_a_row_says_what_is_promised() -> None:
    wrong = [promise.test for promise in promises() if not promise.text.endswith(".") or len(promise.text) < 30]
    assert wrong == []


def test_no_two_tests_of_rows_have_the_same_name() -> None:
    names = Counter(name for name, _ in {(promise.test, promise.path) for promise in promises()})
    assert [name for name, number in names.items() if number > 1] == []


def test_the_page_lists_the_tests_as_they_are() -> None:
    assert RELIABILITY_PAGE.read_text(encoding="utf-8") == reliability_page(), "run python -m tests.docs"
