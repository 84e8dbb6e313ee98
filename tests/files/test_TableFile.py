"""Tables as people save them: every cell comes back as it was written, or the row is named."""

from __future__ import annotations

import builtins
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.files.TableFile import TableFile, cell_key, plain_cell

ODD = [
    "007",
    "None",
    "nan",
    "NA",
    "true",
    "1e5",
    "-1",
    "1.0",
    "",
    " x ",
    "a,b",
    "a;b",
    "Café",
    'say "hi"',
    "two\nlines",
]


def write(path: Path, text: str, encoding: str = "utf-8") -> TableFile:
    path.write_bytes(text.encode(encoding))
    return TableFile(path, "--labels")


def cells(table: TableFile) -> list[list[str]]:
    return [row for _, row in table.rows(range(len(table.header)))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_are_text_whatever_the_encoding_and_the_separator(
    tmp_path: Path, encoding: str, separator: str, end: str
) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in ODD]
    lines = [f"path{separator}label", *(f"{number}.jpg{separator}{name}" for number, name in enumerate(quoted))]
    table = write(tmp_path / "t.csv", end.join(lines) + end, encoding)
    assert table.header == ("path", "label")
    assert cells(table) == [[f"{number}.jpg", name] for number, name in enumerate(ODD)]


def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", 'path,label\n"a\nb.jpg",x\n\n,\nc.jpg,y\n')
    assert list(table.rows([1, 0])) == [(2, ["x", "a\nb.jpg"]), (5, ["y", "c.jpg"])]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_may_have_thousands_of_columns(tmp_path: Path, encoding: str) -> None:
    names = ["path", *(f"feature_{number}" for number in range(5000)), "label"]
    row = ["1.jpg", *map(str, range(5000)), "cat"]
    table = write(tmp_path / "wide.csv", f"{';'.join(names)}\n{';'.join(row)}\n", encoding)
    assert table.header == tuple(names)
    assert list(table.rows([0, 5000, 5001])) == [(2, ["1.jpg", "4999", "cat"])]


@pytest.mark.parametrize("text", ["x" * 200_000, "x," * 100_000])
def test_a_first_row_without_end_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="its first row is too long"):
        write(tmp_path / "long.csv", text)


def test_a_spreadsheet_may_name_its_separator_first(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "sep=;\npath;label\n1,5.jpg;x\n")
    assert table.header == ("path", "label") and list(table.rows([0])) == [(3, ["1,5.jpg"])]


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path) -> None:
    assert cells(write(tmp_path / "t.csv", "a,b\n1\n2,3,,\n")) == [["1", ""], ["2", "3"]]
    with pytest.raises(UsageError, match="row 3 has 3 cells, and there are 2 columns. Put quotes"):
        cells(write(tmp_path / "t.csv", "path,label\n1.jpg,x\n2.jpg,shirt, red\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b'path,label\n1.jpg,"x', "row 2: unexpected end of data"),
        (b"path,label\n1.jpg,caf\xe9\n", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        cells(TableFile(tmp_path / "t.csv", "--labels"))
    assert str(caught.value).startswith(f"--labels {tmp_path / 't.csv'}: cannot be read") and words in str(caught.value)


def test_devices_pipes_folders_and_other_formats_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    for name, words in (
        (tmp_path / "pipe.csv", "is a device or a pipe"),
        (Path("/dev/zero"), "is a device or a pipe"),
        (tmp_path / "folder.csv", "is a folder"),
        (tmp_path / "book.xlsx", ".xlsx is not read"),
        (tmp_path / "missing.csv", "No such file"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words):
            TableFile(name, "--fixes")


def test_parquet_cells_are_text_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"path": ["1.jpg", "2.jpg", None], "label": [7, 8, 9], "x": [0.5, None, 1.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = TableFile(tmp_path / "t.parquet", "--labels")
    assert table.header == ("path", "label", "x")
    assert list(table.rows([1, 0])) == [(1, ["7", "1.jpg"]), (2, ["8", "2.jpg"]), (3, ["9", ""])]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 is not all it takes")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        TableFile(tmp_path / "t.parquet", "--labels")


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **more: Mapping[str, Any]) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return found(name, *rest, **more)

    (tmp_path / "t.parquet").touch()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResourceError, match="pip install pyarrow") as caught:
        TableFile(tmp_path / "t.parquet", "--labels")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [("-1", "'-1"), ("=1+1/0.png", "'=1+1/0.png"), ("Caf\u00e9", "Cafe\u0301"), ("\udcff.jpg", "\\udcff.jpg")],
)
def test_a_name_and_the_cells_that_stand_for_it_share_a_key(one: str, other: str) -> None:
    assert cell_key(one) == cell_key(other)


def test_only_signs_that_a_spreadsheet_runs_lose_their_apostrophe() -> None:
    assert [plain_cell(cell) for cell in ("'-1", "'tis", "'", "-1")] == ["-1", "'tis", "'", "-1"]
