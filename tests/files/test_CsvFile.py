"""Every CSV is whole, reads back, and runs nothing in a spreadsheet."""

import csv
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import ResourceError, unescaped
from MLPipeline.files.CsvFile import cell_text, write_csv
from MLPipeline.files.TableFile import plain_cell


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"])
def test_formulas_are_neutralised_in_cells_and_headers(tmp_path: Path, text: str) -> None:
    write_csv(pd.DataFrame({text: [text, "cat"]}), tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv") == [["'" + text], ["'" + text], ["cat"]]


def test_numbers_keep_their_sign_and_digits(tmp_path: Path) -> None:
    write_csv(pd.DataFrame({"lr": [-0.1, 1e-5, 1 / 3], "n": [-1, 0, 10**12]}), tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv") == [
        ["lr", "n"],
        ["-0.1", "-1"],
        ["1e-05", "0"],
        ["0.3333333333333333", "1000000000000"],
    ]


def test_missing_values_are_empty_cells(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [float("nan"), 1.5], "b": [None, "x"], "c": pd.array([pd.NA, 3], dtype="Int64")})
    write_csv(frame, tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv") == [["a", "b", "c"], ["", "", ""], ["1.5", "x", "3"]]


def test_a_file_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.jpg")
    write_csv(pd.DataFrame({"path": pd.Series([name], dtype=object)}), tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv") == [["path"], [r"\udcff\udcfe.jpg"]]


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_any_text_reads_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write_csv(pd.DataFrame(cells, columns=["a", "b"], dtype=object), path)
    assert rows_of(path) == [["a", "b"], *([cell_text(cell) for cell in row] for row in cells)]
    assert [[unescaped(plain_cell(cell)) for cell in row] for row in rows_of(path)[1:]] == [
        [unescaped(cell if not cell.startswith("'") else plain_cell(cell)) for cell in row] for row in cells
    ]


def test_newlines_in_names_are_escaped(tmp_path: Path) -> None:
    write_csv(pd.DataFrame({"path": ["a\nb", "c\rd", "e\r\nf", 'g"h,i']}), tmp_path / "a.csv")
    assert [row[0] for row in rows_of(tmp_path / "a.csv")] == ["path", r"a\nb", r"c\rd", r"e\r\nf", 'g"h,i']


def test_no_rows_still_have_a_header_and_columns_may_share_a_name(tmp_path: Path) -> None:
    write_csv(pd.DataFrame([], columns=["path", "path"]), tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv") == [["path", "path"]]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    write_csv(pd.DataFrame({"a": [1]}), path)
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ResourceError, match="No space left"):
        write_csv(pd.DataFrame({"a": [2]}), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("text", ["cat/1.jpg", "=cat/1.jpg", "'=cat", os.fsdecode(b"\xff.jpg"), "a\r\nb"])
def test_cell_text_is_what_a_reader_finds(tmp_path: Path, text: str) -> None:
    write_csv(pd.DataFrame({"path": [text]}, dtype=object), tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv")[1] == [cell_text(text)]
