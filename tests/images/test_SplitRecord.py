"""Old images never change side, whatever is added, taken away, or found to be the same picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.Errors import DataError
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, ImageIndex
from MLPipeline.images.SplitImages import split_images, split_record
from tests.support.split_cases import counts_of, index_from, sides_of


def files(*numbers: int) -> list[tuple[int, int, str]]:
    return [(UNSPLIT, label, f"{'ab'[label]}/{number:04}.jpg") for label in (0, 1) for number in numbers]


def resplit(folder: Path, entries: list[tuple[int, int, str]], groups: np.ndarray | None = None) -> ImageIndex:
    record = split_record(folder, Path("Data"), 0.15, 0.15, 0)
    return split_images(index_from(entries, 2), 0.15, 0.15, 0, groups, record)


@given(
    first=st.sets(st.integers(0, 400), min_size=8, max_size=80),
    more=st.lists(st.sets(st.integers(0, 400), max_size=60), max_size=3),
    gone=st.sets(st.integers(0, 400), max_size=30),
)
def test_old_images_never_change_side(tmp_path_factory, first, more, gone):
    folder, names, before = tmp_path_factory.mktemp("cache"), set(first), {}
    for added in [set(), *more]:
        names = (names | added) - (gone if added else set()) or first
        if len(names) < 8:
            return
        split = resplit(folder, files(*sorted(names)))
        now = {split.name(position): int(split.splits[position]) for position in range(len(split))}
        assert {name: side for name, side in before.items() if name in now}.items() <= now.items()
        before |= now


def test_what_is_added_fills_the_shares(tmp_path):
    assert counts_of(resplit(tmp_path, files(*range(100)))) == [[70, 15, 15], [70, 15, 15]]
    assert counts_of(resplit(tmp_path, files(*range(200)))) == [[140, 30, 30], [140, 30, 30]]


def test_a_new_image_follows_its_group(tmp_path):
    old = resplit(tmp_path, files(*range(2, 100, 2)))
    entries = files(*range(1, 100))  # each odd number shows the picture of the even one after it, and comes before it
    groups = np.array([99 * label + number // 2 * 2 for label in (0, 1) for number in range(99)])
    new = resplit(tmp_path, entries, groups)
    assert all(len(sides) == 1 for sides in sides_of(new, groups))
    sides = {new.name(position): new.splits[position] for position in range(len(new))}
    assert all(sides[old.name(position)] == old.splits[position] for position in range(len(old)))


def test_a_new_image_between_two_old_ones_moves_neither(tmp_path):
    old = resplit(tmp_path, files(*range(40)))
    one, other = int(old.positions(TRAIN)[0]), int(old.positions(TEST)[0])
    groups = np.arange(82)
    groups[[one + (one >= 40), other + (other >= 40), 40]] = min(one, other)
    new = resplit(tmp_path, files(*range(41)), groups)
    kept = [position for position in range(82) if position not in (40, 81)]
    assert np.array_equal(new.splits[kept], old.splits)


def test_groups_that_a_table_states_are_whole_even_if_it_has_changed(tmp_path, caplog):
    """A table is corrected after the first run: each image was a group of its own, and now four are."""

    def split(size: int) -> ImageIndex:
        index = index_from(files(*range(40)), 2)
        stated = np.arange(80, dtype=np.int32) // size
        record = split_record(tmp_path, Path("Data"), 0.15, 0.15, 0)
        return split_images(replace(index, groups=stated), 0.15, 0.15, 0, stated.astype(np.int64) * size, record)

    before = split(1)
    after = split(4)
    assert all(len(sides) == 1 for sides in sides_of(after, np.arange(80) // 4))
    assert counts_of(after) == [[32, 4, 4], [32, 4, 4]]  # a second group of four brings 6 images no closer
    is_whole = np.array([len(sides) == 1 for sides in sides_of(before, np.arange(80) // 4)]).repeat(4)
    assert np.array_equal(after.splits[is_whole], before.splits[is_whole])
    assert f"{np.count_nonzero(~is_whole)} images of groups" in caplog.text
    caplog.clear()
    assert np.array_equal(split(4).splits, after.splits) and not caplog.text


def test_other_fractions_seeds_and_groups_have_records_of_their_own(tmp_path):
    same = (tmp_path, Path("Data"), 0.15, 0.15, 0, None)
    others = [same[:place] + (value,) + same[place + 1 :] for place, value in enumerate((0.2, 0.2, 1, "x"), start=2)]
    folders = {split_record(*each).folder for each in (same, *others)}
    assert len(folders) == 5


def test_a_damaged_record_is_made_anew(tmp_path):
    first = resplit(tmp_path, files(*range(50)))
    (rows,) = tmp_path.rglob("rows.bin")
    rows.write_bytes(bytes(7 for _ in rows.read_bytes()))
    assert np.array_equal(resplit(tmp_path, files(*range(50))).splits, first.splits)


def test_a_split_that_fails_writes_nothing_down(tmp_path):
    with pytest.raises(DataError, match="too few images"):
        resplit(tmp_path, files(0))
    assert counts_of(resplit(tmp_path, files(0, 1, 2))) == [[1, 1, 1], [1, 1, 1]]


def test_without_the_record_few_move_when_a_tenth_is_added():
    before, after = (split_images(index_from(files(*range(n)), 2), 0.15, 0.15, 0) for n in (1000, 1100))
    kept = np.r_[0:1000, 1100:2100]
    assert 0 < np.mean(before.splits != after.splits[kept]) < 0.02
