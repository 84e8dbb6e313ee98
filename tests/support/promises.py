"""The rows of the fault matrix that have tests: read from the names and docstrings of the tests, none of which is run.

A test called `test_014_...` checks a promise of row 14, and `test_046_047_...` one of rows 46 and 47. The first
paragraph of its docstring is the promise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import TESTS

FOLDERS = ("faults", "campaigns")
NUM_ROWS = 129
NOT_TESTED: dict[int, str] = {}  # row: why
SECTIONS = {  # first row: title
    1: "Image files",
    22: "Folders and flags",
    34: "Model files, weights and resumed runs",
    41: "Disk, memory, processes and signals",
    55: "Several ranks",
    60: "Security",
    65: "Pixels and formats",
    75: "Labels, splits, copies and scores",
    93: "Files that are written, and the console",
    98: "Signals, memory, locks and files of strangers",
    113: "Export, labelling and serving",
    123: "Cross-validation and the choice of a backbone",
}
_NAME = re.compile(r"test_((?:\d{3}_)+)")


@dataclass(frozen=True)
class Promise:
    """One test of one row."""

    row: int
    text: str  # the first paragraph of the docstring, on one line
    test: str
    path: Path


def promises() -> list[Promise]:
    """Return all tests of rows, in the order of the rows and of the tests in their files."""
    files = [path for folder in FOLDERS for path in sorted((TESTS / folder).glob("test_*.py"))]
    found = [promise for path in files for promise in _promises_of(path)]
    return sorted(found, key=lambda promise: promise.row)


def rows_without_test() -> set[int]:
    """Return the rows that should have a test and have none."""
    return set(range(1, NUM_ROWS + 1)) - {promise.row for promise in promises()} - set(NOT_TESTED)


def promise_tables() -> str:
    """Return one Markdown table per section: row, promise, test."""
    found, parts = promises(), []
    ends = [*list(SECTIONS)[1:], 10_000]
    for (first, title), end in zip(SECTIONS.items(), ends, strict=True):
        lines = [_line(promise) for promise in found if first <= promise.row < end]
        lines += [f"| {row} | not tested: {why} | |" for row, why in NOT_TESTED.items() if first <= row < end]
        lines.sort(key=lambda line: int(line.split("|")[1]))
        if lines:
            parts += [f"### {title}", "", "| row | what is promised | test |", "| --- | --- | --- |", *lines, ""]
    return "\n".join(parts)


def _promises_of(path: Path) -> Iterator[Promise]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (match := _NAME.match(node.name)):
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            for number in match[1].split("_")[:-1]:
                yield Promise(int(number), text, node.name, path)


def _line(promise: Promise) -> str:
    file = promise.path.relative_to(TESTS.parent).as_posix()
    text = promise.text.replace("|", "\\|")
    return f"| {promise.row} | {text} | [{promise.test}](../{file}) |"
