"""A file is whole or absent, whatever fails while it is written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files.AtomicFile import write_file, write_text

OLD, NEW = b"old", b"new content"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def _umask_27() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def write_new(file: BinaryIO) -> None:
    file.write(NEW)


def fail_with(code: int) -> object:
    def fail(*args: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_content_replaces_the_old(target: Path) -> None:
    write_file(target, write_new)
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["model.pt"]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "c.txt", write_new)
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == NEW


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_failing_step_leaves_the_old_file_and_nothing_else(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(step, fail_with(errno.ENOSPC))
    with pytest.raises(ResourceError) as caught:
        write_file(target, write_new)
    assert str(caught.value).startswith(f"{target}: cannot be written (No space left on device). ")
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.pt"]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(errno.EIO, "i/o"), ResourceError), (KeyboardInterrupt(), KeyboardInterrupt), (ValueError(), ValueError)],
)
def test_a_writer_that_stops_midway_leaves_the_old_file(target: Path, error: BaseException, seen: type) -> None:
    def write(file: BinaryIO) -> NoReturn:
        file.write(NEW)
        raise error

    with pytest.raises(seen):
        write_file(target, write)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["model.pt"]


def test_the_old_file_is_replaced_only_once_the_new_one_is_on_the_disk(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def log_sync(handle: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        sync(handle)

    def log_replace(source: Path, destination: Path) -> None:
        steps.append(f"replace {Path(source).read_bytes().decode()}")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_replace)
    write_file(target, write_new)
    assert steps == ["sync file", "replace new content", "sync folder"]


def test_a_folder_that_cannot_be_synced_is_no_failure(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse it with EINVAL."""
    sync = os.fsync

    def refuse_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_file(target, write_new)
    assert target.read_bytes() == NEW


def test_the_previous_content_is_kept_where_asked(target: Path) -> None:
    write_file(target, write_new, keep_previous=True)
    write_file(target, lambda file: file.write(b"newest"), keep_previous=True)
    assert target.read_bytes() == b"newest"
    assert target.with_name("model.pt.prev").read_bytes() == NEW
    assert names(target.parent) == ["model.pt", "model.pt.prev"]


def test_a_file_system_without_links_goes_without_the_previous(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", fail_with(errno.EPERM))
    write_file(target, write_new, keep_previous=True)
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["model.pt"]


@pytest.mark.usefixtures("_umask_27")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_file(tmp_path / "made.txt", write_new)
    assert stat.S_IMODE((tmp_path / "made.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("place", ["file.txt/below.txt", "folder", "."])
def test_a_place_that_cannot_hold_a_file(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_file(Path(place), write_new)
    assert names(tmp_path) == ["file.txt", "folder"]


def test_text_is_utf_8_whatever_the_names_in_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Käse\n\udcff")
    assert (tmp_path / "a.txt").read_bytes() == "Käse\n\\udcff".encode()


@pytest.mark.skipif(os.name == "nt", reason="permissions are those of the folder")
def test_a_replaced_file_keeps_its_permissions_and_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 12345, 23456)
    before = path.stat()
    write_text(path, "new")
    after = path.stat()
    assert path.read_text() == "new" and after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["text"]
