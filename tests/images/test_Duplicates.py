"""Copies and changed copies are found, look-alikes are not, and what belongs together gets one number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.Errors import UsageError
from MLPipeline.images import Duplicates
from MLPipeline.images.Duplicates import Pairs, find_conflicts, find_leaks, group_images
from MLPipeline.images.Fingerprint import UNREADABLE
from MLPipeline.images.Likeness import compare
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, VAL, ImageIndex
from tests.support.duplicate_cases import CHANGES, duplicates_among, encode, inspection_of, listed, row_of, scene
from tests.support.split_cases import index_from


def index_of(*names: str, splits: tuple[int, ...] = ()) -> ImageIndex:
    """Return an index of files `<class>/<name>`, the classes in alphabetical order."""
    classes = sorted({name.split("/")[0] for name in names})
    sides = splits or (UNSPLIT,) * len(names)
    entries = [(split, classes.index(name.split("/")[0]), name) for split, name in zip(sides, names, strict=True)]
    return index_from(entries, len(classes))


def no_pairs() -> Pairs:
    return pairs_of()


def pairs_of(*pairs: tuple[int, int]) -> Pairs:
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return Pairs(first, second, np.ones(len(pairs), np.float32))


# ---- finding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_others(tmp_path, change):
    pictures = [scene(seed) for seed in range(12)]
    files = [*(encode(picture) for picture in pictures), CHANGES[change](pictures[5]), CHANGES[change](pictures[11])]
    pairs = duplicates_among(tmp_path, *files)
    assert listed(pairs) == {(5, 12), (11, 13)}
    assert np.all(pairs.likeness >= Duplicates.MIN_LIKENESS) and not pairs.are_copies.any()


def test_every_copy_is_paired_with_the_first_and_compared_once(tmp_path):
    one, other = encode(scene(0)), encode(scene(1))
    found = duplicates_among(tmp_path, one, other, one, one, CHANGES["rescaled"](scene(0)), other)
    assert listed(found) == {(0, 2), (0, 3), (1, 5), (0, 4)}
    assert sorted(found.second[found.are_copies].tolist()) == [2, 3, 5]


def with_another_face(picture: np.ndarray) -> np.ndarray:
    """The same document with another photo on it."""
    other = picture.copy()
    other[60:84, 20:40] = scene(99, 24, 20)
    return other


def with_another_texture(picture: np.ndarray) -> np.ndarray:
    """The same shape in another material."""
    weave = np.indices(picture.shape[:2]).sum(axis=0)[:, :, None] % 16 < 8
    return np.clip(picture.astype(int) + np.where(weave, 30, -30), 0, 255).astype(np.uint8)


def in_another_colour(picture: np.ndarray) -> np.ndarray:
    """Equally light in every place, its red and blue exchanged."""
    light, red, blue = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge([light, blue, red]), cv2.COLOR_YCrCb2RGB)


OTHERS = (with_another_face, with_another_texture, in_another_colour, np.flipud, np.fliplr, np.rot90)


@pytest.mark.parametrize("change", OTHERS)
def test_pictures_alike_but_not_the_same_stay_apart(tmp_path, change):
    warm = scene(5) // 2 + np.array([120, 60, 20], np.uint8)
    assert listed(duplicates_among(tmp_path, encode(warm), encode(change(warm)))) == set()


def test_a_grey_copy_is_found(tmp_path):
    grey = np.repeat((scene(3) @ [0.299, 0.587, 0.114]).astype(np.uint8)[:, :, None], 3, axis=2)
    assert listed(duplicates_among(tmp_path, encode(scene(3)), encode(grey))) == {(0, 1)}


def test_pictures_without_contrast_and_unreadable_files_have_no_duplicates_but_copies(tmp_path):
    ramp = np.tile(np.arange(8, dtype=np.uint8).repeat(8)[:, None], (64, 1, 3))
    faint = [encode(ramp + grey, ".png") for grey in (np.uint8(200), np.uint8(210))]
    assert listed(duplicates_among(tmp_path, *faint, b"", b"", faint[0])) == {(0, 4)}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_images_are_no_trouble(tmp_path, number):
    assert len(duplicates_among(tmp_path, *(encode(scene(seed)) for seed in range(number)))) == 0


def test_likeness_is_a_share_and_does_not_mind_light():
    small = [row_of(encode(each))["thumbnail"] for each in (scene(0), scene(0) // 2 + 30, scene(1))]
    first, second = np.stack([small[0]] * 3), np.stack(small)
    same, darker, other = compare(first, second).tolist()
    assert same > 0.9999 and darker > 0.999 and other == 0


@pytest.mark.parametrize("damage", [None, b"", b"PK\3\4 no archive", "half", "bit"])
def test_the_same_images_are_searched_once(tmp_path, monkeypatch, damage):
    files, cache = (encode(scene(0)), encode(scene(1)), CHANGES["brighter"](scene(0))), tmp_path / "cache"
    first = duplicates_among(tmp_path / "Data", *files, cache=cache)
    (kept,) = (cache / "duplicates").iterdir()
    content = kept.read_bytes()
    at = content.index(first.likeness.tobytes())
    damaged = {"half": content[: len(content) // 2], "bit": content[:at] + b"\xff" + content[at + 1 :], None: content}
    kept.write_bytes(damaged.get(damage, damage))
    searches = []
    monkeypatch.setattr(Duplicates, "compare", lambda *pictures: searches.append(1) or compare(*pictures))
    again = duplicates_among(tmp_path / "Data", *files, cache=cache)
    assert len(searches) == (0 if damage is None else 1) and listed(again) == listed(first) == {(0, 2)}
    assert np.array_equal(again.likeness, first.likeness) and again.likeness.dtype == np.float32
    assert listed(duplicates_among(tmp_path / "Data", *files[:2], cache=cache)) == set()


# ---- grouping -----------------------------------------------------------------------------------------------


def test_a_group_holds_what_is_linked_directly_or_by_way_of_others():
    index = index_of(*(f"a/{number}" for number in range(7)))
    inspection = inspection_of(*(encode(scene(seed)) for seed in range(7)))
    assert group_images(index, inspection, pairs_of((5, 6), (1, 4), (4, 5))).tolist() == [0, 1, 2, 3, 1, 1, 1]
    inspection.prints["flags"][2] = UNREADABLE
    assert group_images(index, inspection, no_pairs()).tolist() == [0, 1, -1, 3, 4, 5, 6]


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_joining_is_that_of_a_graph(case):
    number, pairs = case
    lowest = list(range(number))
    for _ in range(number):
        for one, other in pairs:
            lowest[one] = lowest[other] = min(lowest[one], lowest[other])
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    assert Duplicates._join(number, first, second).tolist() == lowest


@pytest.mark.parametrize(
    "pattern, groups",
    [
        (r"patient(\d+)", [0, 1, 0, 3, 1]),
        (r"patient\d+", [0, 1, 0, 3, 1]),
        (r"^[^/]+/(?:x|patient(\d+))", [0, 1, 0, 3, 1]),  # a bracket that took no part: alone
        (r"_(left|right)", [0, 1, 1, 3, 0]),
        (r"^(.)/", [0, 0, 2, 2, 2]),
    ],
)
def test_files_that_a_pattern_finds_alike_are_one_group(pattern, groups):
    names = "a/patient7_left a/patient8_right b/patient7_right b/x b/patient8_left".split()
    inspection = inspection_of(*(encode(scene(seed)) for seed in range(5)))
    assert group_images(index_of(*names), inspection, no_pairs(), pattern).tolist() == groups


@pytest.mark.parametrize("pattern", ["(Jos\u00e9)", "(Jose\u0301)", "(Jo..)_"])
def test_a_pattern_finds_accents_composed_or_not(pattern):
    names = ["a/Jos\u00e9_0", "a/Jose\u0301_1", "b/Ana_0"]
    inspection = inspection_of(*(encode(scene(seed)) for seed in range(3)))
    assert group_images(index_of(*names), inspection, no_pairs(), pattern).tolist() == [0, 0, 2]


def test_a_pattern_and_duplicates_join(caplog):
    inspection = inspection_of(*(encode(scene(seed)) for seed in range(4)))
    index = index_of("a/p1_0", "a/p1_1", "b/p2_0", "b/\udcff")
    assert group_images(index, inspection, pairs_of((1, 2)), r"p(\d)").tolist() == [0, 0, 0, 3]
    assert group_images(index, inspection, no_pairs(), "nothing").tolist() == [0, 1, 2, 3]
    assert "--group nothing matches no file" in caplog.text


def test_what_is_no_pattern_is_refused():
    with pytest.raises(
        UsageError, match=r"--group p\(: missing \), unterminated subpattern at position 1\. Give a reg"
    ):
        group_images(index_of("a/1"), inspection_of(encode(scene(0))), no_pairs(), "p(")


# ---- leaks and conflicts --------------------------------------------------------------------------------------


def test_leaks_are_images_whose_group_lies_in_an_earlier_split_too(caplog):
    sides = (TEST, TRAIN, VAL, TRAIN, TEST, VAL, TRAIN, UNSPLIT, TEST)
    index = index_of(*(f"a/{number}" for number in range(9)), splits=sides)
    groups = np.array([0, 0, 0, 3, 4, 4, 6, 3, -1])
    leaks = find_leaks(index, groups)
    assert set(map(tuple, leaks.tolist())) == {(1, 2), (1, 0), (5, 4)}
    assert "3 images of val or test are copies of, or in the same group as" in caplog.text and "a/1" in caplog.text


def test_no_leak_no_warning(caplog):
    index = index_of("a/0", "a/1", "b/2", splits=(TRAIN, TRAIN, TEST))
    assert find_leaks(index, np.array([0, 0, 2])).shape == (0, 2)
    assert not find_conflicts(index, pairs_of((0, 1))).any() and not caplog.text


def test_one_picture_under_two_labels_is_named(caplog):
    index = index_of("cat/0", "dog/1", "dog/2", "cat/3")
    assert find_conflicts(index, pairs_of((0, 1), (1, 2), (2, 3))).tolist() == [True, False, True]
    assert "pictures with two labels: 2, such as cat/0 and dog/1" in caplog.text


def test_the_table_names_both_images_of_a_pair():
    index = index_of("cat/0", "dog/1", splits=(TRAIN, TEST))
    index = replace(index, classes=("cat", "dog"), root=Path("Data"))
    (row,) = pairs_of((0, 1)).table(index).to_dict("records")
    assert row == {
        "path": "cat/0", "class": "cat", "split": "train",
        "same_path": "dog/1", "same_class": "dog", "same_split": "test", "likeness": 1.0,
    }  # fmt: skip
