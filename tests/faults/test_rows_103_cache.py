"""Row 103 of the fault matrix, through the command line: a cache in which someone else has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.files.Cache import digest
from tests.support.harness import SMALL, succeed

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    """Return the output folder of a run whose rows are in the cache."""
    root = tmp_path_factory.mktemp("cache")
    make_images(root / "Data", {"cat": 8, "dog": 8})
    train(root / "output")
    return root / "output"


def train(output: Path) -> tuple[bytes, str]:
    """Return the history of a run on frozen features, and its notes."""
    flags = ["--data", output.parent / "Data", "--output", output, "--freeze", "backbone"]
    notes = succeed([*SMALL, *flags]).err
    rows = (sorted(output.glob("[0-9]*"))[-1] / "history.csv").read_text().splitlines()
    return "\n".join(row.rpartition(",")[0] for row in rows).encode(), notes  # without the seconds


def test_103_rows_and_sums_that_another_has_rewritten(first: Path) -> None:
    """Cached rows that someone else has rewritten, checksums included, are computed again, and a note says so."""
    history, _ = train(first)
    for rows in (first / "cache").glob("*/rows.bin"):
        forged, keys = bytearray(rows.read_bytes()), np.fromfile(rows.with_name("keys.bin"), "V16,<u8")
        row_bytes = len(forged) // len(keys)
        for number in range(len(keys)):
            forged[number * row_bytes] ^= 255
            row = bytes(forged[number * row_bytes : (number + 1) * row_bytes])
            keys["f1"][number] = int.from_bytes(digest(row)[:8], "little")  # as good as one can without the key
        rows.write_bytes(forged)
        keys.tofile(rows.with_name("keys.bin"))
    again, notes = train(first)
    assert again == history and "damaged or foreign rows" in notes


def test_103_a_link_in_place_of_the_keys(first: Path, tmp_path: Path) -> None:
    """A link in the cache is not followed: what it points to stays as it is, and a note says so."""
    history, _ = train(first)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"the only copy")
    for keys in (first / "cache").glob("*/keys.bin"):
        keys.unlink()
        keys.symlink_to(photo)
    again, notes = train(first)
    assert again == history and "keys.bin is a symbolic link: not used" in notes
    assert photo.read_bytes() == b"the only copy"


def test_103_pairs_that_another_has_rewritten(first: Path) -> None:
    """A forged list of near-duplicates is searched again, and a note says so."""
    history, _ = train(first)
    files = list((first / "cache" / "duplicates").iterdir())
    assert files
    for file in files:
        with file.open("wb") as forged:
            np.savez(forged, first=np.arange(9), second=np.arange(1, 10), likeness=np.ones(9, np.float32))
    again, notes = train(first)
    assert again == history and "is damaged, or from someone else: computed again" in notes
