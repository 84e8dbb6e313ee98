"""A session: which pictures are shown, what labels do, undoing, groups, several pages, changing files."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from MLPipeline.Errors import DataError, UsageError
from MLPipeline.labelling.LabelFile import Label
from MLPipeline.labelling.Session import MAX_CLASSES, Session
from tests.support.label_cases import CLASSES, class_of, draw_photographs, label_next, labelling


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photographs(tmp_path_factory.mktemp("photos"), 150)


def show(session: Session, page: str = "page"):
    (picture,) = session.next(page, 1)
    return picture, [(picture.number, picture.stamp)]


def test_it_learns_the_classes_and_knows_how_well(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        assert session.progress().line == "0 of 150 labelled · accuracy not known yet"
        names = label_next(session, 70)
        assert len(set(names)) == 70, "no picture is shown twice"
        session.learn()
        counts = dict(session.progress().counts)
        assert sum(counts.values()) == 70 and min(counts.values()) >= 15
        splits = Counter(label.split for label in session.file.labels.values())
        assert 5 <= splits["test"] <= 9, "every eighth is of the random sample"
        line = session.progress().line
        assert (
            line.startswith("70 of 150 labelled · accuracy 100 % (") and f"on {splits['test']} random pictures" in line
        )
        picture, _ = show(session)
        assert picture.proposals[0][0] == class_of(picture.name) and picture.proposals[0][1] > 0.6


def test_a_picture_of_the_sample_trains_if_its_class_has_no_other(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        names = session.photographs.names
        first, second = [number for number in session._sample if class_of(names[number]) == "cat"][:2]
        for number in (first, second):
            session.label("page", [(number, session.photographs.stamp(number))], "cat")
        labels = [session.file.labels[session.photographs.names[number]] for number in (first, second)]
        assert labels == [Label("cat", "train"), Label("cat", "test")]
        session.label("page", [(second, session.photographs.stamp(second))], "dog")
        assert session.file.labels[session.photographs.names[second]] == Label("dog", "test"), "the split stays"


def test_pages_get_pictures_of_their_own_and_no_label_is_lost(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv", with_features=False) as session:
        session.add_classes(CLASSES)

        def work(page: str) -> list[str]:
            return label_next(session, 30, page)

        with ThreadPoolExecutor(4) as threads:
            names = [name for each in threads.map(work, ("one", "two", "three", "four")) for name in each]
        assert len(names) == len(set(names)) == len(session.file.labels) == 120
    with labelling(photographs, tmp_path / "labels.csv") as session:
        assert {name: label.name for name, label in session.file.labels.items()} == {n: class_of(n) for n in names}


def test_the_last_label_counts_and_an_undo_does_not_touch_that_of_another_page(
    photographs: Path, tmp_path: Path
) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        picture, shown = show(session, "one")
        session.label("one", shown, "cat")
        session.label("two", shown, "dog")
        assert session.file.labels[picture.name].name == "dog"
        assert session.undo("one") == ([], "another page has changed that label since")
        assert session.file.labels[picture.name].name == "dog"
        (again,), message = session.undo("two")
        assert message == "" and again.name == picture.name and again.given == "cat"
        assert session.undo("two") == ([], "nothing to undo")
        history = session.file.history.read_text().splitlines()[1:]
        assert [row.split(",")[2:] for row in history] == [
            ["cat", "train", "", "one"],
            ["dog", "train", "cat", "two"],
            ["cat", "train", "dog", "two"],
        ]


def test_undo_shows_the_picture_again_and_skipped_ones_stay_away(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        picture, shown = show(session)
        session.skip(picture.number)
        other, shown = show(session)
        assert other.number != picture.number
        session.label("page", shown, "cat")
        assert other.name in session.file.labels
        (again,), _ = session.undo("page")
        assert again.number == other.number and other.name not in session.file.labels


def test_a_group_is_confirmed_without_those_picked_out(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        label_next(session, 44)
        session.learn()
        group = session.group()
        assert group is not None and session.progress().group == (group.name, len(group.pictures))
        assert {class_of(picture.name) for picture in group.pictures} == {group.name}
        first, *rest = group.pictures
        session.label("page", [(each.number, each.stamp) for each in rest], group.name, picked_out=[first.number])
        assert all(session.file.labels[each.name].name == group.name for each in rest)
        assert first.name not in session.file.labels
        assert show(session)[0].number == first.number, "it is shown next"
        following = session.group()
        assert following is None or first.number not in [each.number for each in following.pictures]
        pictures, _ = session.undo("page")
        assert {each.number for each in pictures} == {each.number for each in rest}, "one step"


def test_groups_never_hold_pictures_of_the_sample(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        label_next(session, 44)
        session.learn()
        while group := session.group():
            assert not {picture.number for picture in group.pictures} & set(session._sample)
            session.label("page", [(each.number, each.stamp) for each in group.pictures], group.name)


def test_a_picture_that_has_changed_or_is_gone_gets_no_label(tmp_path: Path) -> None:
    folder = draw_photographs(tmp_path / "photos", 12)
    with labelling(folder, tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        picture, shown = show(session)
        os.utime(folder / picture.name, (1, 1))
        assert session.label("page", shown, "cat") == f"{picture.name}: the file has changed, and is shown again"
        (again,) = session.next("page", 1)
        assert again.number == picture.number and again.stamp != picture.stamp
        (folder / picture.name).unlink()
        message = session.label("page", [(again.number, again.stamp)], "cat")
        assert message == f"{picture.name}: the file is gone"
        assert not session.file.labels
        others = session.next("page", 20)
        assert len(others) == 11 and picture.number not in [each.number for each in others]
        assert session.progress().notes[-1] == f"{picture.name}: the file is gone"


def test_a_page_that_outlives_its_session_labels_no_other_picture(tmp_path: Path) -> None:
    """A photograph was added before the server started again, so the numbers on the page are those of others now."""
    folder = draw_photographs(tmp_path / "photos", 4)
    for file in folder.iterdir():
        file.write_bytes(b"BM")
    (folder / "0.bmp").write_bytes(b"BM")
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    (folder / "0.bmp").rename(tmp_path / "later.bmp")
    with labelling(folder, tmp_path / "labels.csv", with_features=False) as session:
        session.add_classes(CLASSES)
        (picture,) = session.pictures([1])
    (tmp_path / "later.bmp").rename(folder / "0.bmp")
    with labelling(folder, tmp_path / "labels.csv", with_features=False) as session:
        assert session.photographs.names[1] != picture.name
        assert "has changed" in session.label("page", [(picture.number, picture.stamp)], "cat")
        assert not session.file.labels


def test_folders_of_classes_count_as_labels(tmp_path: Path, make_images) -> None:
    folder = draw_photographs(tmp_path / "photos", 20)
    make_images(folder, {"train/cat": 3, "cat": 2, "other": 1}, size=6)
    with labelling(folder, tmp_path / "labels.csv", with_features=False) as session:
        assert session.photographs.class_folders() == ["cat", "other"]
        session.add_classes(["cat", "dog"])
        assert dict(session.progress().counts) == {"cat": 5, "dog": 0}
        shown = session.next("page", 50)
        assert len(shown) == 21 and not any("cat/" in picture.name for picture in shown)
        session.add_classes(["other"])
        assert dict(session.progress().counts)["other"] == 1
        assert session.undo("page") == ([], "nothing to undo")


def test_names_of_classes_are_checked(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes([" cat ", "", "cat", "dög"])
        assert session.classes == ("cat", "dög")
        with pytest.raises(DataError, match="differ only in spelling"):
            session.add_classes(["Cat"])
        with pytest.raises(UsageError, match="too long"):
            session.add_classes(["x" * 300])
        with pytest.raises(UsageError, match="Give at most 1000"):
            session.add_classes([f"class {number}" for number in range(MAX_CLASSES)])
        assert session.classes == ("cat", "dög")
        picture, shown = show(session)
        with pytest.raises(UsageError, match="no class 'emu'"):
            session.label("page", shown, "emu")
        with pytest.raises(UsageError, match="no picture 150"):
            session.label("page", [(150, "")], "cat")
        assert not session.file.labels


def test_with_one_class_nothing_is_learned(photographs: Path, tmp_path: Path) -> None:
    with labelling(photographs, tmp_path / "labels.csv") as session:
        session.add_classes(["cat"])
        for _ in range(12):
            _, shown = show(session)
            session.label("page", shown, "cat")
            session.learn()
        assert session.progress().line == "12 of 150 labelled · accuracy not known yet"
        assert show(session)[0].proposals == ()


def test_all_are_labelled_in_the_end(tmp_path: Path) -> None:
    with labelling(draw_photographs(tmp_path / "photos", 30), tmp_path / "labels.csv") as session:
        session.add_classes(CLASSES)
        label_next(session, 30)
        assert session.next("page", 1) == [] and session.group() is None
        session.learn()
        assert not session.is_worth_learning, "nothing is new"
