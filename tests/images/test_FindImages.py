"""Files, folders and globs of `predict`: what is named is found, brackets in names or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from MLPipeline.Errors import DataError
from MLPipeline.images.FindImages import find_images, index_files

FILES = [
    "shots [2]/a.png",
    "shots [2]/b.png",
    "shots [2]/img [1]c.png",
    "shots [2]/deep [x]/d.png",
    "shots 2/e.png",
    "[a-z]/f.png",
    "q/g.png",
    "plain/h.png",
    "plain/i[1].png",
    "plain/i1.png",
    "plain/.hidden.png",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("shots [2]/*.png", ["shots [2]/a.png", "shots [2]/b.png", "shots [2]/img [1]c.png"]),
        ("shots [2]/img [1]*.png", ["shots [2]/img [1]c.png"]),
        ("shots [2]/deep [x]/?.png", ["shots [2]/deep [x]/d.png"]),
        ("shots [2]/**/d.png", ["shots [2]/deep [x]/d.png"]),
        ("shots [2]/**/a.png", ["shots [2]/a.png"]),
        ("*/deep [x]/*", ["shots [2]/deep [x]/d.png"]),
        ("shots [0-9]/*.png", ["shots 2/e.png"]),  # there is no folder of this name, so it is a pattern
        ("[a-z]/*.png", ["[a-z]/f.png"]),  # a folder of this very name is meant
        ("[p-q]*/[gh].png", ["plain/h.png", "q/g.png"]),
        ("plain/i[1].png", ["plain/i[1].png"]),
        ("plain/i[0-9].png", ["plain/i1.png"]),
        ("plain/*", ["plain/h.png", "plain/i1.png", "plain/i[1].png"]),  # as a shell: without hidden files
        ("**/[gh].png", ["plain/h.png", "q/g.png"]),
        ("shots 2/../q/*.png", ["shots 2/../q/g.png"]),
    ],
)
def test_brackets_are_a_pattern_only_where_no_such_name_exists(root: Path, pattern: str, expected: list[str]) -> None:
    assert find_images([Path(pattern)])[0] == [Path(name) for name in expected]
    assert find_images([root / pattern])[0] == [root / name for name in expected]


@pytest.mark.parametrize("pattern", ["shots [3]/*.png", "shots [2]/*.gif", "plain/h.png/*", "*/*/*/*.png", "none"])
def test_what_matches_nothing_is_an_error_that_names_it(root: Path, pattern: str) -> None:
    with pytest.raises(DataError) as caught:
        find_images([Path(pattern)])
    assert caught.value.what == f"{pattern}: no such file or folder"


def test_an_index_of_files_keeps_their_paths_and_their_order(root: Path) -> None:
    inside = [Path("plain/h.png"), Path("plain/deep/é.png"), Path("plain/\udcff.png")]
    index = index_files(inside)
    assert index.root == Path("plain") and [index.path(k) for k in range(3)] == inside
    assert index.splits.tolist() == [0, 0, 0] and index.classes == ("image",)
    mixed = [root / "q/g.png", Path("plain/h.png")]
    index = index_files(mixed)
    assert index.root == Path() and [index.path(k) for k in range(2)] == mixed
    assert [index_files([Path("a.png"), Path("../b.png")]).path(k) for k in range(2)] == [
        Path("a.png"),
        Path("../b.png"),
    ]
