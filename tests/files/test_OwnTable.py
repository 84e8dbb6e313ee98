"""Which tables are known to be ours, and so may be replaced: never one that a user has made or edited."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.OwnTable import is_own_table

ANSWERS = b"path,answered,predicted,confidence,class_2,confidence_2\r\na.jpg,true,cat,0.9,dog,0.1\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


def test_tables_of_both_commands_are_ours(path: Path) -> None:
    path.write_bytes(ANSWERS)
    assert is_own_table(path)
    row = {
        "path": ["=1.jpg", "b\n.jpg"],
        "split": "test",
        "true": "cat",
        "predicted": "cat",
        "confidence": 0.9,
        "loss": 0.1,
    }
    for more in ({}, {"answered": "false"}, {"p_cat": 0.9, "p_a,\nb": 0.1}, {"class_2": "dog", "confidence_2": 1e-6}):
        write_csv(pd.DataFrame(row | more), path)
        assert is_own_table(path), more


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\r\na.jpg,cat\r\n",  # a user's labels
        b"path\r\na.jpg\r\n",
        ANSWERS.replace(b"confidence_2\r", b"confidence_2,my notes\r").replace(
            b"0.1\r", b"0.1,check\r"
        ),  # a new column
        ANSWERS.replace(b"\r\n", b"\n"),  # saved by an editor
        b"\xef\xbb\xbf" + ANSWERS,  # saved by a spreadsheet
        ANSWERS.replace(b",", b";"),
        ANSWERS.replace(b"true,cat", b"true,dog"),  # a corrected answer
        ANSWERS.replace(b"true,cat", b"yes,cat"),
        ANSWERS.replace(b"0.9", b"sure"),
        ANSWERS + b"remember: ask Ann\r\n",
        ANSWERS + b'"',
        b"",
        b"\xff\xd8\xff",
        b"\0\0\0",
    ],
)
def test_other_and_edited_tables_are_not(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert not is_own_table(path)


def test_what_cannot_be_read_is_not(tmp_path: Path) -> None:
    assert not is_own_table(tmp_path) and not is_own_table(tmp_path / "missing")
