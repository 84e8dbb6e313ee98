"""`--group`: the text that an expression finds in each path, within a time limit."""

from __future__ import annotations

import re
import sys

import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.images import GroupPattern
from MLPipeline.images.GroupPattern import match_paths

PATHS = ["cat/7_a.jpg", "cat/12_b.jpg", "dog/x.jpg", "Käse/7_\udcff.jpg", "dog/a\n7_.jpg", ""]


@pytest.mark.parametrize("pattern", [r"(\d+)_", r"\d+_.", "^(cat)?", r"(?i)CAT|\udcff", "", "ä", "(?P<n>a)|(b)"])
def test_it_finds_what_re_finds(pattern: str) -> None:
    expression = re.compile(pattern)
    number = 1 if expression.groups else 0
    assert match_paths(PATHS, pattern) == [
        match[number] if (match := expression.search(path)) else None for path in PATHS
    ]
    assert match_paths([], pattern) == []


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("p(", "--group p(: missing ), unterminated subpattern at position 1"),
        ("(" * 100_000, "nested too deeply"),
        ("a{99999999999999999999}", "the repetition number is too large"),
    ],
)
def test_what_is_no_expression_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        match_paths(PATHS, pattern)
    assert reason in caught.value.what and len(str(caught.value)) < 400


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)+$b", "(.*)*$b"])
def test_an_expression_that_never_ends_is_stopped(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupPattern, "_LIMIT_S", 0.3)
    with pytest.raises(UsageError, match="took more than 0 s on the 1 paths, and was stopped") as caught:
        match_paths(["a" * 60 + "c"], pattern)
    assert caught.value.what.startswith(f"--group {pattern}: ")


def test_without_processes_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ResourceError, match="no process can be started"):
        match_paths(PATHS, "a")
