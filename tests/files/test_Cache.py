"""Stored rows come back as they were written, or not at all, whatever happened to the files in between."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.Errors import ResourceError
from MLPipeline.files.Cache import RowStore, digest
from tests.support.paths import ROOT

SHAPE = (2, 3)
ROW_BYTES, KEY_BYTES = 2 * 3 * 4, 16 + 8


def store_in(folder: Path, identity: str = "weights 1", shape: tuple[int, ...] = SHAPE, dtype: str = "f4") -> RowStore:
    return RowStore(folder, "features", identity, shape, np.dtype(dtype))


def row(number: int) -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(SHAPE) + 10 * number


def key(number: int) -> bytes:
    return digest(f"image {number}".encode())


def fill(folder: Path, numbers: range) -> RowStore:
    store = store_in(folder)
    with store.writing():
        store.append([key(n) for n in numbers], np.stack([row(n) for n in numbers]))
    return store


def found(folder: Path, number: int = 12) -> list[int]:
    """Return which of the first images a newly opened store finds, after comparing their rows bit by bit."""
    store = store_in(folder)
    with store.writing():
        numbers = {n: place for n in range(number) if (place := store.find(key(n))) is not None}
        rows = store.rows()
        assert all(np.array_equal(rows[place], row(n)) for n, place in numbers.items())
    return sorted(numbers)


def files_of(folder: Path) -> tuple[Path, Path]:
    return store_in(folder).folder / "rows.bin", store_in(folder).folder / "keys.bin"


def flip_bit(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


# ---- kept and found ---------------------------------------------------------------------------------------


def test_rows_are_found_at_once_and_after_reopening_and_appending(tmp_path):
    store = store_in(tmp_path)
    with store.writing():
        assert store.find(key(0)) is None and store.rows().shape == (0, *SHAPE)
        assert store.append([key(0), key(1)], np.stack([row(0), row(1)])) == [0, 1]
        assert store.append([key(2)], row(2)[None]) == [2]
        assert [store.find(key(n)) for n in range(4)] == [0, 1, 2, None]
        assert np.array_equal(store.rows(), np.stack([row(0), row(1), row(2)]))
    assert found(tmp_path) == [0, 1, 2]
    rows = fill(tmp_path, range(3, 5)).rows()
    assert isinstance(rows, np.memmap) and not rows.flags.writeable and rows.dtype == np.float32
    assert found(tmp_path) == [0, 1, 2, 3, 4]
    assert [path.stat().st_size for path in files_of(tmp_path)] == [5 * ROW_BYTES, 5 * KEY_BYTES]


@pytest.mark.parametrize("other", [{"identity": "weights 2"}, {"shape": (3, 2)}, {"shape": (6,)}, {"dtype": "f2"}])
def test_what_rows_depend_on_names_the_folder(tmp_path, other):
    assert store_in(tmp_path, **other).folder != store_in(tmp_path).folder
    assert store_in(tmp_path).folder == store_in(tmp_path).folder


def test_the_same_image_twice_is_found_once(tmp_path):
    store = store_in(tmp_path)
    with store.writing():
        store.append([key(0), key(0), key(1)], np.stack([row(0), row(0), row(1)]))
    assert found(tmp_path) == [0, 1]


def test_a_digest_is_of_the_content():
    assert len(digest(b"")) == 16 and digest(b"a") == digest(b"a") != digest(b"b") != digest(b"b\0")


# ---- killed, damaged, deleted -----------------------------------------------------------------------------


@pytest.mark.parametrize("key_cut", [0, 1, 16, KEY_BYTES - 1, KEY_BYTES, KEY_BYTES + 7, 4 * KEY_BYTES])
@pytest.mark.parametrize("row_cut", [0, 1, ROW_BYTES - 1, ROW_BYTES, 2 * ROW_BYTES + 3, 4 * ROW_BYTES])
def test_after_a_kill_whole_rows_survive_and_partial_ones_are_dropped(tmp_path, row_cut, key_cut):
    fill(tmp_path, range(4))
    rows, keys = files_of(tmp_path)
    rows.write_bytes(rows.read_bytes()[: 4 * ROW_BYTES - row_cut])
    keys.write_bytes(keys.read_bytes()[: 4 * KEY_BYTES - key_cut])
    whole = min((4 * ROW_BYTES - row_cut) // ROW_BYTES, (4 * KEY_BYTES - key_cut) // KEY_BYTES)
    assert found(tmp_path) == list(range(whole))
    assert (rows.stat().st_size, keys.stat().st_size) == (whole * ROW_BYTES, whole * KEY_BYTES)
    fill(tmp_path, range(whole, 6))
    assert found(tmp_path) == list(range(6))


@pytest.mark.parametrize("byte", [0, ROW_BYTES - 1, ROW_BYTES, 2 * ROW_BYTES + 5])
def test_a_damaged_row_is_made_anew_and_the_others_are_found(tmp_path, byte, caplog):
    fill(tmp_path, range(4))
    flip_bit(files_of(tmp_path)[0], byte)
    damaged = byte // ROW_BYTES
    assert found(tmp_path) == [n for n in range(4) if n != damaged]
    assert f"damaged or foreign rows in {store_in(tmp_path).folder} are computed again" in caplog.text
    fill(tmp_path, range(damaged, damaged + 1))
    assert found(tmp_path) == [0, 1, 2, 3]


def test_damage_everywhere_is_said_once(tmp_path, caplog):
    fill(tmp_path, range(6))
    rows = files_of(tmp_path)[0]
    rows.write_bytes(bytes(rows.stat().st_size))  # as after a power cut: the length written, the content not
    assert found(tmp_path) == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("byte", range(2 * KEY_BYTES))
def test_a_damaged_key_never_gives_a_wrong_row(tmp_path, byte):
    fill(tmp_path, range(3))
    flip_bit(files_of(tmp_path)[1], byte)
    assert found(tmp_path) == [n for n in range(3) if n != byte // KEY_BYTES]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_deleted_file_costs_its_rows_and_no_more(tmp_path, lost):
    fill(tmp_path, range(3))
    files_of(tmp_path)[lost].unlink()
    assert found(tmp_path) == []
    fill(tmp_path, range(3))
    assert found(tmp_path) == [0, 1, 2]


def test_several_threads_find_alike(tmp_path):
    fill(tmp_path, range(12))
    flip_bit(files_of(tmp_path)[0], 0)
    store = store_in(tmp_path)
    with store.writing(), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(store.find, [key(n) for n in range(12)] * 20)) == [None, *range(1, 12)] * 20


# ---- full disk, other runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, ROW_BYTES, 2 * ROW_BYTES + 5])
def test_a_full_disk_is_an_error_of_the_environment_and_costs_nothing_written_before(tmp_path, room):
    fill(tmp_path, range(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = store_in(tmp_path)
    try:
        with pytest.raises(ResourceError, match="cannot be written") as caught, store.writing():
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * ROW_BYTES + room, hard))
            store.append([key(n) for n in range(2, 6)], np.stack([row(n) for n in range(2, 6)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 3
    assert found(tmp_path) == [0, 1]
    fill(tmp_path, range(2, 4))
    assert found(tmp_path) == [0, 1, 2, 3]


class FullDisk:
    def write(self, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_no_room_for_the_keys_drops_their_rows(tmp_path):
    fill(tmp_path, range(2))
    store = store_in(tmp_path)
    with pytest.raises(ResourceError, match=r"No space left on device\). Free space"), store.writing():
        store._key_file = FullDisk()
        store.append([key(2)], row(2)[None])
    assert files_of(tmp_path)[0].stat().st_size == 3 * ROW_BYTES
    assert found(tmp_path) == [0, 1]


def test_a_cache_that_cannot_be_made_is_an_error_of_the_environment(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(ResourceError, match="cannot be written"), store_in(tmp_path / "cache").writing():
        pass


def test_the_lock_is_given_back_even_while_an_error_is_kept(tmp_path):
    with pytest.raises(ResourceError) as kept, store_in(tmp_path).writing():
        raise OSError(errno.EIO, "Input/output error")
    fill(tmp_path, range(1))
    assert found(tmp_path) == [0] and kept.value.exit_code == 3


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from MLPipeline.files.Cache import RowStore, digest

assert "torch" not in sys.modules
store = RowStore(Path(sys.argv[1]), "features", "weights 1", (2, 3), np.dtype("f4"))
computed = 0
with store.writing():
    print("open", flush=True)
    for number in range(12):
        key = digest(f"image {number}".encode())
        if store.find(key) is None:
            row = np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * number
            store.append([key], row[None])
            computed += 1
            time.sleep(float(sys.argv[2]))
print(computed)
"""


def start_writer(folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(pause)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_runs_at_once_make_each_row_once(tmp_path):
    writers = [start_writer(tmp_path, 0.03) for _ in range(2)]
    told = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], told
    assert sorted(int(out.split()[-1]) for out, _ in told) == [0, 12]
    assert sum("waiting for process" in error for _, error in told) <= 1
    assert found(tmp_path) == list(range(12))


def test_a_killed_run_leaves_its_rows_and_no_lock(tmp_path):
    writer = start_writer(tmp_path, 0.2)
    assert writer.stdout.readline() == "open\n"
    while files_of(tmp_path)[1].stat().st_size < 2 * KEY_BYTES:
        assert writer.poll() is None
    writer.kill()
    writer.communicate(timeout=10)
    rows = found(tmp_path)
    assert rows == list(range(len(rows))) and 2 <= len(rows) < 12
