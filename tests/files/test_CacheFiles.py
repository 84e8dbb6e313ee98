"""Files of the cache: links in it are not followed, and what someone else has put there is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.files import CacheFiles, CacheKey
from MLPipeline.files.Cache import RowStore, digest, has_room
from MLPipeline.files.CacheFiles import open_plain, read_signed, sound_cache, write_signed

KEY, ROW = digest(b"image"), np.arange(3, dtype=np.float32)[None]


def store_in(cache: Path) -> RowStore:
    return RowStore(cache, "features", "weights 1", (3,), np.dtype("f4"))


def filled(cache: Path) -> RowStore:
    store = store_in(cache)
    with store.writing():
        store.append([KEY], ROW)
    return store


def is_known(cache: Path) -> bool:
    store = store_in(cache)
    with store.writing():
        number = store.find(KEY)
        assert number is None or np.array_equal(store.rows()[number], ROW[0])
    return number is not None


@pytest.mark.parametrize("name", ["keys.bin", "rows.bin", "lock", ""])
def test_a_link_in_the_cache_is_removed_and_its_target_unchanged(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, victim = filled(tmp_path / "cache").folder, tmp_path / "photos"
    victim.mkdir()
    for each in ("keys.bin", "rows.bin", "lock", "photo.jpg"):
        (victim / each).write_bytes(b"the only copy")
    place = folder / name if name else folder
    place.rename(tmp_path / "moved")
    place.symlink_to(victim / "photo.jpg" if name else victim)
    assert is_known(tmp_path / "cache") == (name == "lock")
    assert filled(tmp_path / "cache").folder == folder and is_known(tmp_path / "cache")
    assert not place.is_symlink() and f"{place} is a symbolic link: not used" in caplog.text
    assert {path.read_bytes() for path in victim.iterdir()} == {b"the only copy"} and len(list(victim.iterdir())) == 4


@pytest.mark.parametrize("name", ["keys.bin", "rows.bin"])
def test_a_file_with_another_name_is_not_written_to(tmp_path: Path, name: str) -> None:
    """A backup of hard links (`cp -al`), or someone else's link onto a file of the user."""
    folder = filled(tmp_path / "cache").folder
    os.link(folder / name, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    filled(tmp_path / "cache")
    assert (tmp_path / "backup").read_bytes() == before and is_known(tmp_path / "cache")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_in_the_cache_does_not_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = filled(tmp_path / "cache").folder
    (folder / "keys.bin").unlink()
    os.mkfifo(folder / "keys.bin")
    assert not is_known(tmp_path / "cache") and "keys.bin is a FIFO: not used" in caplog.text


def test_room_is_never_made_behind_a_link(tmp_path: Path) -> None:
    victim = filled(tmp_path / "another cache").folder
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / victim.name).symlink_to(victim)
    store = RowStore(tmp_path / "cache", "features", "weights 2", (3,), np.dtype("f4"))
    assert has_room(tmp_path / "cache", store, 2, 24e-9)
    assert (victim / "rows.bin").exists()


def test_the_cache_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "large disk")
    filled(tmp_path / "cache")
    assert is_known(tmp_path / "cache") and is_known(tmp_path / "large disk")


def test_rows_of_another_key_are_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users of one cache neither believe nor replace each other's rows."""
    first = filled(tmp_path).folder
    monkeypatch.setattr("MLPipeline.files.Cache.cache_key", lambda cache: b"another user's key".ljust(32))
    assert not is_known(tmp_path) and store_in(tmp_path).folder != first
    filled(tmp_path)
    assert is_known(tmp_path)
    monkeypatch.undo()
    assert is_known(tmp_path) and store_in(tmp_path).folder == first


def test_a_row_of_one_image_does_not_pass_for_another(tmp_path: Path) -> None:
    store = filled(tmp_path)
    content = (store.folder / "keys.bin").read_bytes()
    (store.folder / "keys.bin").write_bytes(digest(b"another image") + content[16:])
    store = store_in(tmp_path)
    with store.writing():
        assert store.find(digest(b"another image")) is None and store.find(KEY) is None


def test_the_store_of_an_earlier_version_is_replaced_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_in(tmp_path)
    earlier = store._folder(f"1 {store._about}")
    earlier.mkdir()
    (earlier / "rows.bin").write_bytes(ROW.tobytes())
    (earlier / "keys.bin").write_bytes(KEY + b"sum.")
    assert not is_known(tmp_path)
    assert f"{earlier} is of an earlier version" in caplog.text and not (earlier / "rows.bin").exists()
    caplog.clear()
    assert not is_known(tmp_path) and not caplog.records


class OthersStatus:
    """The status of a folder of another user."""

    def __init__(self, mode: int) -> None:
        self.st_uid, self.st_mode = -1, mode


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
@pytest.mark.parametrize(("mode", "is_used"), [(0o40777, False), (0o41777, False), (0o40775, True), (0o40755, True)])
def test_a_cache_of_another_that_anyone_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int, is_used: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(Path, "stat", lambda path, **_: OthersStatus(mode))
    sound = sound_cache(tmp_path / f"cache {mode}")
    assert (sound == tmp_path / f"cache {mode}") == is_used
    assert is_used or sound.parent == tmp_path / "own" / CacheKey.PROJECT
    assert ("belongs to another user and anyone may write to it: not used" in caplog.text) != is_used


def test_a_folder_of_this_user_is_sound_whatever_its_mode(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert sound_cache(tmp_path / "cache") == tmp_path / "cache"


def test_signed_content_comes_back_or_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "cache" / "judgements" / "a.json"
    assert read_signed(file) is None and not caplog.records
    write_signed(file, b"content")
    assert read_signed(file) == b"content"
    signed = file.read_bytes()
    for forged in (signed[:-1], signed + b"x", b"", b"content", signed[:16] + b"CONTENT", bytes(16) + b"content"):
        file.write_bytes(forged)
        assert read_signed(file) is None
    assert "is damaged, or from someone else: computed again" in caplog.text
    file.with_name("b.json").write_bytes(signed)
    assert read_signed(file.with_name("b.json")) is None, "the content of one file does not pass for another"


def test_signed_content_is_neither_read_nor_written_through_links(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "judgements" / "a.json"
    write_signed(file, b"content")
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert read_signed(file) is None
    file.parent.rename(tmp_path / "folder")
    file.parent.symlink_to(tmp_path / "folder")
    assert read_signed(file) is None
    before = sorted(path.name for path in (tmp_path / "folder").iterdir())
    write_signed(file, b"new")
    assert read_signed(file) == b"new" and not file.parent.is_symlink()
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == before


def test_nothing_that_is_no_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        open_plain(tmp_path / "folder", "rb")
    assert CacheFiles.remove_foreign(tmp_path / "absent") is None
