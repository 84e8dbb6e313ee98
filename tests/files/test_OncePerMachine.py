"""What the ranks of a machine compute once: the same values for all, read-only, from pages that they share."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files import OncePerMachine
from MLPipeline.files.OncePerMachine import once_per_machine
from MLPipeline.images.ScanFolders import ImageIndex
from tests.support.rank_cases import refused, together
from tests.support.split_cases import index_from

LARGE = 300_000  # numbers of 8 bytes: more than is sent by message


def an_index() -> ImageIndex:
    return index_from([(0, 0, "a/größe.png"), (1, 1, "b/1.png"), (-1, 1, "b/\udcff.png")], 2)


def about(index: ImageIndex) -> list[Any]:
    return [index.identity, [index.name(position) for position in range(len(index))], index.positions(1).tolist()]


def fails(kind: type[Exception], *about: str) -> None:
    raise kind(*about)


def on_two_ranks(cache: Path) -> dict[str, Any]:
    """What both ranks of a machine get, and in which pages it lies."""
    calls: list[int] = []

    def numbers() -> tuple[np.ndarray, ImageIndex, str]:
        calls.append(ranks.rank)
        return np.arange(LARGE) + 7, an_index(), f"from rank {ranks.rank}"

    large, index, text = once_per_machine(numbers, cache)
    small = once_per_machine(lambda: np.arange(3) + 10 * ranks.rank, cache)
    empty, none = once_per_machine(lambda: (np.empty(0, np.int32), None), cache)
    known = refused(lambda: once_per_machine(partial(fails, DataError, "Data: no images", "Add some"), cache))
    try:
        other = refused(lambda: once_per_machine(partial(fails, ValueError, "a bug"), cache))
    except ValueError as error:
        other = f"raised: {error}"
    return {
        "calls": calls,
        "large": (int(large.sum()), large.dtype, large.flags.writeable, _is_in_a_file(large)),
        "index": about(index),
        "text": text,
        "small": small.tolist(),
        "empty": (len(empty), none),
        "errors": (known, other),
        "left": sorted(path.name for path in cache.glob(".*")),
    }


def _is_in_a_file(array: np.ndarray) -> bool:
    """Whether the pages of `array` are those of a file, as Linux lists them."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return ".shared-" in line
    raise AssertionError


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return together(2, partial(on_two_ranks, folder / "cache"), folder, local=True)


def test_the_first_rank_of_a_machine_computes_for_all(of_two: list[dict[str, Any]]) -> None:
    assert [results["calls"] for results in of_two] == [[0], []]
    for results in of_two:
        assert results["text"] == "from rank 0" and results["small"] == [0, 1, 2] and results["empty"] == (0, None)
        assert results["index"] == about(an_index())


def test_large_arrays_are_read_from_one_file_that_no_one_finds_later(of_two: list[dict[str, Any]]) -> None:
    for results in of_two:
        assert results["large"] == (sum(range(7, LARGE + 7)), np.int64, False, True)
        assert results["left"] == []


def test_what_fails_on_the_first_rank_fails_on_all(of_two: list[dict[str, Any]]) -> None:
    (known, bug), (its_known, its_bug) = (results["errors"] for results in of_two)
    assert known == its_known == "Data: no images. Add some"
    assert bug == "raised: a bug"
    assert its_bug == "rank 0: ValueError('a bug'). See the messages above"


def test_a_single_process_keeps_what_it_computes(tmp_path: Path) -> None:
    made = np.arange(LARGE)
    assert once_per_machine(lambda: made, tmp_path / "cache") is made and not (tmp_path / "cache").exists()


def test_a_single_process_maps_very_large_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OncePerMachine, "_LEAST_BYTES_ALONE", 1000)
    old, new = tmp_path / ".shared-0", tmp_path / ".shared-1"
    old.touch(), new.touch()
    os.utime(old, (time.time() - 7200,) * 2)  # of a run that was killed
    names, numbers = once_per_machine(lambda: (an_index(), np.arange(LARGE)[::-1].reshape(2, -1)), tmp_path)
    assert about(names) == about(an_index()) and numbers[1, -1] == 0 and numbers.shape == (2, LARGE // 2)
    index, columns = once_per_machine(lambda: (an_index(), np.arange(LARGE).reshape(2, -1)), tmp_path)
    assert _is_in_a_file(columns) and columns[1, 0] == LARGE // 2 and not index.labels.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == [".shared-1"]


def test_a_single_process_goes_on_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OncePerMachine, "_LEAST_BYTES_ALONE", 1000)
    (tmp_path / "cache").touch()
    assert once_per_machine(lambda: np.arange(LARGE), tmp_path / "cache" / "inside")[-1] == LARGE - 1


def test_several_ranks_say_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", 2), monkeypatch.setattr(ranks, "local_size", 2)
    told: list[bytes] = []
    monkeypatch.setattr(ranks, "from_first_here", told.append)
    monkeypatch.setattr(ranks, "wait_for_others_here", lambda seconds: None)
    (tmp_path / "cache").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        once_per_machine(lambda: np.arange(LARGE), tmp_path / "cache" / "inside")
    assert len(told) == 1  # so that the others do not wait for ever
