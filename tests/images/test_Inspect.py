"""Every image is decoded once, and no file is opened a second time unless it changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.Errors import DataError, ResourceError
from MLPipeline.files import Cache
from MLPipeline.files.Cache import digest
from MLPipeline.images import Inspect
from MLPipeline.images.Fingerprint import KINDS, ROW, make_rows
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders
from tests.support.duplicate_cases import encode, row_of, scene
from tests.support.paths import ROOT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "Data" / name / f"{number}.jpg").write_bytes(encode(scene(10 * label + number, 60, 50)))
    return tmp_path / "Data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The digests of what was decoded."""
    digests: list[bytes] = []

    def make(files: Iterator[bytes], image_size: int, fit: str) -> tuple[np.ndarray, list[np.ndarray | None]]:
        contents = list(files)
        digests.extend(map(digest, contents))
        return make_rows(contents, image_size, fit)

    monkeypatch.setattr(Inspect, "make_rows", make)
    return digests


def inspect(data: Path, verify: bool = False) -> tuple[ImageIndex, Inspection]:
    index = scan_folders(data)
    return index, inspect_images(index, data.parent / "cache", 2, verify)


def forbid(*arguments: object) -> bytes:
    raise AssertionError("a file was opened")


def test_each_image_has_its_record_in_the_order_of_the_index(data, decoded):
    index, inspection = inspect(data)
    assert inspection.num_read == 8 == len(decoded) and inspection.is_readable.all()
    for position in range(8):
        content = index.path(position).read_bytes()
        assert inspection.prints[position] == row_of(content)["print"]
        assert np.array_equal(inspection.thumbnails(np.array([position]))[0], row_of(content)["thumbnail"])
    assert inspection.skipped(index) == () == inspection.notes(index)


def test_the_second_time_no_file_is_opened(data, monkeypatch):
    _, first = inspect(data)
    monkeypatch.setattr(Inspect, "read_bytes", forbid)
    _, second = inspect(data)
    assert second.num_read == 0 and np.array_equal(second.prints, first.prints)


def test_what_is_wrong_or_odd_is_told_the_second_time_too(data):
    (data / "cat" / "0.jpg").write_bytes(b"")
    (data / "dog" / "1.jpg").write_bytes((data / "dog" / "1.jpg").read_bytes()[:-2])
    for num_read in (8, 0):
        index, inspection = inspect(data)
        assert inspection.num_read == num_read and inspection.is_readable.tolist() == [False] + 7 * [True]
        assert inspection.skipped(index) == (Skipped("cat/0.jpg", "empty file"),)
        assert inspection.notes(index) == (Skipped("dog/1.jpg", "end marker missing"),)


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_changed_file_is_read_again_even_of_equal_size_and_time(data, decoded, keep_time):
    inspect(data)
    path = data / "cat" / "2.jpg"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-100] ^= 255
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    index, inspection = inspect(data)
    assert inspection.num_read == 1 and decoded[8:] == [digest(bytes(content))]
    assert inspection.prints["digest"][2].tobytes() == digest(bytes(content))


def test_a_renamed_or_copied_image_is_read_and_not_decoded(data, decoded):
    inspect(data)
    (data / "cat" / "3.jpg").rename(data / "cat" / "9.jpg")
    shutil.copy(data / "dog" / "0.jpg", data / "dog" / "9.jpg")
    index, inspection = inspect(data)
    assert inspection.num_read == 2 and len(decoded) == 8 and len(index) == 9
    assert inspection.prints["digest"][4] == inspection.prints["digest"][8]


def test_verify_reads_every_file_and_decodes_none_that_is_the_same(data, decoded):
    inspect(data)
    index, inspection = inspect(data, verify=True)
    assert inspection.num_read == 8 and len(decoded) == 8


@pytest.mark.parametrize("name", ["rows.bin", "keys.bin"])
@pytest.mark.parametrize("damage", [bytes.swapcase, lambda content: content[: len(content) // 2], lambda content: b""])
def test_damaged_tables_are_made_anew(data, name, damage: Callable[[bytes], bytes]):
    _, first = inspect(data)
    tables = list((data.parent / "cache").rglob(name))
    assert len(tables) == 2
    for table in tables:
        table.write_bytes(damage(table.read_bytes()))
    for _ in range(2):
        assert np.array_equal(inspect(data)[1].prints, first.prints)
    assert inspect(data)[1].num_read == 0


def test_a_file_that_vanishes_after_the_scan_is_listed(data):
    index = scan_folders(data)
    (data / "dog" / "3.jpg").unlink()
    inspection = inspect_images(index, data.parent / "cache")
    assert inspection.skipped(index) == (Skipped("dog/3.jpg", "no such file or directory"),)
    assert inspection.is_readable.tolist() == 7 * [True] + [False]


def test_more_than_one_in_a_hundred_that_vanish_are_an_error(data):
    index = scan_folders(data)
    for number in (1, 2):
        (data / "dog" / f"{number}.jpg").unlink()
    with pytest.raises(
        DataError, match="2 of 8 files have vanished since the folders were listed. Do not change the folder"
    ):
        inspect_images(index, data.parent / "cache")


def test_nothing_readable_is_an_error_with_counts(data):
    for number, path in enumerate(sorted(data.rglob("*.jpg"))):
        path.write_bytes(b"" if number < 3 else b"<html>")
    with pytest.raises(DataError, match=r"none of 8 images can be read. 5 x not an image \(HTML\), 3 x empty file"):
        inspect(data)


def test_a_cache_that_cannot_be_written_is_an_error_of_the_environment(data):
    (data.parent / "cache").write_bytes(b"")
    with pytest.raises(ResourceError, match="cannot be written"):
        inspect(data)


def test_two_runs_at_once_decode_each_image_once(data):
    code = (
        "import sys; from pathlib import Path\n"
        "from MLPipeline.images import Inspect; from MLPipeline.images.ScanFolders import scan_folders\n"
        "assert 'torch' not in sys.modules\n"
        f"found = Inspect.inspect_images(scan_folders(Path({str(data)!r})), Path({str(data.parent / 'cache')!r}), 2)\n"
        "print(found.num_read, found.is_readable.sum())"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert sorted(out.split() for out, _ in told) == [["0", "8"], ["8", "8"]]
    (rows,) = (data.parent / "cache").glob("fingerprints-*/rows.bin")
    assert rows.stat().st_size == 8 * ROW.itemsize


def test_the_progress_counts_the_files_that_are_read(data):
    told = []

    def progress(items, label, total):
        told.append((label, total))
        return items

    for _ in range(2):
        inspect_images(scan_folders(data), data.parent / "cache", progress=progress)
    assert told == [("inspecting", 8)]


def test_names_that_are_not_utf8_are_inspected(data):
    odd = os.path.join(os.fsencode(data), b"cat", b"\xff\xfe.jpg")
    Path(os.fsdecode(odd)).write_bytes((data / "cat" / "0.jpg").read_bytes())
    index, inspection = inspect(data)
    assert inspection.is_readable.all() and KINDS[inspection.prints["kind"][-5]] == "JPEG" and len(index) == 9


def test_rows_that_the_store_has_packed_meanwhile_are_found(data, monkeypatch):
    monkeypatch.setattr(Cache, "_MAX_LATEST", 1)
    for number in range(4):
        shutil.copy(data / "cat" / f"{number}.jpg", data / "dog" / f"z{number}.jpg")
    index = scan_folders(data)
    first = inspect_images(index, data.parent / "cache", verify=True)
    assert first.prints["digest"][:4].tolist() == first.prints["digest"][8:].tolist()
    assert np.array_equal(inspect(data)[1].prints, first.prints) and inspect(data)[1].num_read == 0
